"""Announces a node to the cluster: a heartbeat each second on `nodes`, and its kinds on `kinds` at start and hourly.

Runs in a thread of its own, so that no other work of the node delays it. While Kafka is away at most one heartbeat
waits to be sent: an old heartbeat would say nothing about the moment when it arrives.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from headrace import __version__
from headrace.contract.cluster import MAX_WAITS, Heartbeat, KindInfo, RunningAttempt, Wait
from headrace.kafka.sender import Sender, Sent
from headrace.process.health import Watchdog

from .identity import NodeIdentity

INTERVAL_S = 1.0
KINDS_EVERY_S = 3600.0


class Heartbeats:
    """`running` returns the attempts that the node runs now, `waits` what stands still on it; both are called from the
    heartbeats' thread."""

    def __init__(
        self,
        sender: Sender,
        node: NodeIdentity,
        *,
        slots: int,
        kinds: Iterable[KindInfo],
        running: Callable[[], tuple[RunningAttempt, ...]],
        waits: Callable[[], Sequence[Wait]] = tuple,
        stats_url: str = "",
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._sender, self._node, self._slots, self._kinds = sender, node, slots, tuple(kinds)
        self._running, self._waits, self._stats_url, self._interval_s = running, waits, stats_url, interval_s
        self._state: Literal["alive", "draining"] = "alive"
        self._pending: Sent | None = None
        self._kinds_pending: list[Sent] = []
        self._kinds_announced_at = -KINDS_EVERY_S
        self._wake = threading.Event()
        self._closing = False
        self._watchdog = Watchdog("heartbeats")
        self._thread = threading.Thread(target=self._run, name="heartbeats", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def set_draining(self) -> None:
        """From now on the heartbeats have the state `draining`; the next one is sent at once."""
        self._state = "draining"
        self._wake.set()

    def beat_now(self) -> None:
        """Sends the next heartbeat at once, as after a self-fencing."""
        self._wake.set()

    def close(self) -> None:
        self._closing = True
        self._wake.set()
        self._thread.join(5)

    def check(self) -> str | None:
        """For the node's health: the reason in words when no heartbeat was acknowledged for too long."""
        return self._watchdog.check()

    def heartbeat(self) -> Heartbeat:
        """The heartbeat that says how the node is now."""
        return Heartbeat(
            boot=self._node.boot,
            node=self._node.name,
            host=self._node.host,
            pid=self._node.pid,
            slots=self._slots,
            started_ms=self._node.started_ms,
            running=self._running(),
            kinds=tuple(kind.name for kind in self._kinds),
            state=self._state,
            stats_url=self._stats_url,
            release=__version__,
            waits=tuple(self._waits())[:MAX_WAITS],
        )

    def _run(self) -> None:
        while not self._closing:
            if self._pending is None or self._pending.done():
                if self._pending is not None and self._pending.exception() is None:
                    self._watchdog.beat()
                self._announce_kinds()
                self._pending = self._sender.send(self.heartbeat().encode())
            self._wake.wait(self._interval_s)
            self._wake.clear()

    def _announce_kinds(self) -> None:
        if time.monotonic() - self._kinds_announced_at >= KINDS_EVERY_S and all(s.done() for s in self._kinds_pending):
            self._kinds_announced_at = time.monotonic()
            self._kinds_pending = [self._sender.deliver(kind.encode()) for kind in self._kinds]
