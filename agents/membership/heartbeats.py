"""A node's word to all others: a heartbeat each second on `nodes`, and its kinds on `kinds`, at start and hourly.

A thread of its own, so that nothing the node does holds it up. While Kafka is away no more than one heartbeat waits to
be sent: what is old when it arrives says nothing.
"""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Literal

from agents.membership.identity import NodeIdentity
from headrace import __version__
from headrace.contract.cluster import Heartbeat, KindInfo, Running
from headrace.kafka.client import Sender
from headrace.process.health import Heart

INTERVAL_S = 1.0
KINDS_EVERY_S = 3600.0


class Heartbeats:
    """`running` gives what the node is at, from any thread."""

    def __init__(
        self,
        sender: Sender,
        node: NodeIdentity,
        slots: int,
        kinds: Iterable[KindInfo],
        running: Callable[[], tuple[Running, ...]],
        stats_url: str = "",
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._sender, self._node, self._slots, self._kinds = sender, node, slots, tuple(kinds)
        self._running, self._stats_url, self._interval_s = running, stats_url, interval_s
        self._state: Literal["alive", "draining"] = "alive"
        self._pending: Future[tuple[str, int, int]] | None = None
        self._announced_at = -KINDS_EVERY_S
        self._now = threading.Event()
        self._closing = False
        self._heart = Heart("heartbeats")
        self._thread = threading.Thread(target=self._run, name="heartbeats", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def draining(self) -> None:
        """From now on the heartbeats say so."""
        self._state = "draining"
        self._now.set()

    def beat_now(self) -> None:
        """The next heartbeat at once: after a self-fencing."""
        self._now.set()

    def close(self) -> None:
        self._closing = True
        self._now.set()
        self._thread.join(5)

    def check(self) -> str | None:
        """For the node's health: none sent, or none acknowledged, for too long."""
        return self._heart.check()

    def heartbeat(self) -> Heartbeat:
        n = self._node
        names = tuple(kind.name for kind in self._kinds)
        return Heartbeat(
            n.boot,
            n.name,
            n.host,
            n.pid,
            self._slots,
            n.started_ms,
            self._running(),
            names,
            self._state,
            self._stats_url,
            __version__,
        )

    def _run(self) -> None:
        while not self._closing:
            if self._pending is None or self._pending.done():
                if self._pending is not None and self._pending.exception() is None:
                    self._heart.beat()
                self._announce()
                self._pending = self._sender.send(self.heartbeat().encode())
            self._now.wait(self._interval_s)
            self._now.clear()

    def _announce(self) -> None:
        if time.monotonic() - self._announced_at >= KINDS_EVERY_S:
            self._announced_at = time.monotonic()
            for kind in self._kinds:
                self._sender.send(kind.encode())
