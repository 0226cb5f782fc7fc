"""The registered kinds with their payload checks, and the live nodes, as nodes announce them.

A thread reads `kinds` and `nodes` (compacted, one partition each) from the beginning at each start. Submissions and
GET /kinds and /nodes use what it has read. A node is live while its heartbeats have been *received* within 10 s. Of a
node's boots one that is not dead is the newest, whenever the others' deaths were noticed. The gateway never imports
task code. Undecodable records are logged and skipped.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from headrace.contract.cluster import Heartbeat, KindInfo
from headrace.contract.payload_check import PayloadCheck
from headrace.contract.records import Place, Record
from headrace.errors import Undecodable, UsageError
from headrace.kafka.client import Kafka
from headrace.kafka.follower import Follower

TOPICS = ("kinds", "nodes")
LIVE_S = 10.0  # ten heartbeats: a node that is silent longer does not count as live
# How long a kind stays available after its last node has gone: a rolling restart must not refuse submissions.
GRACE_S = 60.0
_SELDOM = {"fetch.wait.max.ms": 5000}  # how long Kafka may wait when nothing comes: fewer requests of an idle gateway
_FORGET_S = 600.0  # how long GET /nodes lists a silent node


@dataclass(frozen=True, slots=True)
class KnownNode:
    """A node's last heartbeat, and the monotonic time at which it was received."""

    heartbeat: Heartbeat
    received_s: float


class ClusterView(Follower):
    """The thread that follows `kinds` and `nodes`. Its methods are safe from any thread."""

    def __init__(self, kafka: Kafka, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(kafka, "kinds and nodes", TOPICS)
        self._clock = clock
        self._kinds: dict[str, PayloadCheck] = {}
        self._nodes: dict[str, KnownNode] = {}
        self._backlog_end: int | None = None  # the end of `nodes` when reading began

    def consumer_options(self) -> dict[str, Any]:
        return _SELDOM

    def find_kind(self, name: str) -> PayloadCheck | None:
        """The payload check of an available kind, or None.

        A kind is available while a node announces it. With no live node at all every registered kind is available,
        since the queue outlives restarts.
        """
        found = self._kinds.get(name)
        if found is None:
            return None
        since = self._clock() - GRACE_S
        if (
            any(name in n.heartbeat.kinds and n.received_s > since for n in list(self._nodes.values()))
            or not self.live_nodes()
        ):
            return found
        return None

    def kinds(self) -> list[tuple[KindInfo, list[str]]]:
        """Every registered kind, with the names of the live nodes that announce it."""
        live = self.live_nodes()
        return [
            (check.kind, sorted({n.heartbeat.node for n in live if name in n.heartbeat.kinds}))
            for name, check in sorted(self._kinds.items())
        ]

    def kind_names(self) -> list[str]:
        """The names of all available kinds."""
        return [name for name in sorted(self._kinds) if self.find_kind(name)]

    def live_nodes(self) -> list[KnownNode]:
        since = self._clock() - LIVE_S
        return [n for n in list(self._nodes.values()) if n.received_s > since and n.heartbeat.state != "dead"]

    def nodes(self) -> list[tuple[KnownNode, float]]:
        """The newest boot of each node with a heartbeat in the last ten minutes, and the heartbeat's age in seconds."""
        now = self._clock()
        newest = {n.heartbeat.node: n for n in sorted(self._nodes.values(), key=lambda n: _age_rank(n, now))}
        newest.pop("", None)  # boots that were declared dead unseen
        return [(n, now - n.received_s) for _, n in sorted(newest.items()) if now - n.received_s < _FORGET_S]

    def start_positions(self, ends: Mapping[Place, int]) -> Mapping[Place, int]:
        if self._backlog_end is None:
            self._backlog_end = ends["nodes", 0]
        return self.positions

    def position_lost(self, place: Place) -> None:
        if place[0] == "nodes":
            self._backlog_end = 0

    def apply_record(self, record: Record) -> None:
        """Applies one record; Undecodable when it is none of ours."""
        if record.topic == "kinds":
            self._apply_kind(record)
        else:
            self._apply_heartbeat(record)

    def _apply_kind(self, record: Record) -> None:
        if record.value is None:
            self._kinds.pop((record.key or b"").decode(errors="replace"), None)
            return
        kind = KindInfo.decode(record)
        known = self._kinds.get(kind.name)
        if known is None or known.kind != kind:
            try:
                self._kinds[kind.name] = PayloadCheck(kind)
            except UsageError as e:
                raise Undecodable(str(e), record.value) from None

    def _apply_heartbeat(self, record: Record) -> None:
        if not Heartbeat.is_heartbeat(record):
            if record.value is None:
                self._nodes.pop((record.key or b"").decode(errors="replace"), None)
            return
        heartbeat = Heartbeat.decode(record)
        # A heartbeat from before this start is as old as its record. After that only the time of receipt counts, so
        # that clocks that differ between machines never make a live node dead.
        is_backlog = record.offset < (self._backlog_end or 0)
        age_s = max(0.0, time.time() - record.timestamp_ms / 1000) if is_backlog else 0.0
        known = self._nodes.get(heartbeat.boot)
        if known is not None and known.heartbeat.state == "dead" and heartbeat.state != "dead":
            return  # a heartbeat that came late: a dead boot stays dead
        if known is not None and heartbeat.state == "dead":
            heartbeat = _merged(known.heartbeat, heartbeat)
        self._nodes[heartbeat.boot] = KnownNode(heartbeat, self._clock() - age_s)
        for boot, node in list(self._nodes.items()):
            if self._clock() - node.received_s > _FORGET_S:
                del self._nodes[boot]


def _age_rank(node: KnownNode, now: float) -> tuple[bool, bool, int, float]:
    """Orders the boots of a node, the newest last: those that are not dead, and of these those heard of lately."""
    beat = node.heartbeat
    return beat.state != "dead", now - node.received_s <= LIVE_S, beat.started_ms, node.received_s


def _merged(last: Heartbeat, notice: Heartbeat) -> Heartbeat:
    """What is known of a boot that is dead: its notice may know no more than its id."""
    return replace(last, state="dead", running=(), kinds=notice.kinds, drained=last.drained or notice.drained)
