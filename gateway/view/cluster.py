"""The registered kinds with their payload checks, and the live nodes, as nodes announce them.

A thread reads `kinds` and `nodes` (compacted, one partition each) from the beginning at each start. Submissions and
GET /kinds and /nodes use what it has read. A node is live while its heartbeats have been *received* within 10 s. The
gateway never imports task code. Undecodable records are logged and skipped.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from headrace.contract.cluster import Heartbeat, KindInfo
from headrace.contract.payload_check import PayloadCheck
from headrace.contract.records import Record
from headrace.errors import Undecodable, UsageError
from headrace.kafka.client import Kafka, log_throttled, place_of_message
from headrace.process.health import Watchdog

TOPICS = ("kinds", "nodes")
LIVE_S = 10.0  # ten heartbeats: a node that is silent longer does not count as live
# How long a kind stays available after its last node has gone: a rolling restart must not refuse submissions.
GRACE_S = 60.0
_FORGET_S = 600.0  # how long GET /nodes lists a silent node


@dataclass(frozen=True, slots=True)
class KnownNode:
    """A node's last heartbeat, and the monotonic time at which it was received."""

    heartbeat: Heartbeat
    received_s: float


class ClusterView:
    """The thread that follows `kinds` and `nodes`. Its methods are safe from any thread."""

    def __init__(self, kafka: Kafka, clock: Callable[[], float] = time.monotonic) -> None:
        self._kafka, self._clock = kafka, clock
        self.watchdog = Watchdog("kinds and nodes")
        self._kinds: dict[str, PayloadCheck] = {}
        self._nodes: dict[str, KnownNode] = {}
        self.positions: dict[tuple[str, int], int] = {}
        self._backlog_end = 0  # the end of `nodes` when reading began
        self._caught_up = False  # whether all heartbeats from before this start have been read
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cluster-view", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(5)

    def check(self) -> str | None:
        if len(self.positions) < len(TOPICS):
            return "kinds and nodes have not been read yet"
        return self.watchdog.check()

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
            (check.kind, sorted(n.heartbeat.node for n in live if name in n.heartbeat.kinds))
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
        newest: dict[str, KnownNode] = {}
        for node in sorted(self._nodes.values(), key=lambda n: (n.heartbeat.started_ms, n.received_s)):
            newest[node.heartbeat.node] = node
        return [(n, now - n.received_s) for _, n in sorted(newest.items()) if now - n.received_s < _FORGET_S]

    def apply_record(self, record: Record) -> None:
        """Applies one record; skips an undecodable one."""
        try:
            if record.topic == "kinds":
                self._apply_kind(record)
            else:
                self._apply_heartbeat(record)
        except (Undecodable, UsageError) as e:
            log_throttled(f"undecodable {record.topic}", "skipped %s: %s", record.source, e)
        self._record_position(record.topic, record.offset + 1)

    def _record_position(self, topic: str, following: int) -> None:
        self.positions = self.positions | {(topic, 0): following}
        self._caught_up = self._caught_up or (topic == "nodes" and following >= self._backlog_end)

    def _apply_kind(self, record: Record) -> None:
        if record.value is None:
            self._kinds.pop((record.key or b"").decode(errors="replace"), None)
            return
        kind = KindInfo.decode(record)
        known = self._kinds.get(kind.name)
        if known is None or known.kind != kind:
            self._kinds[kind.name] = PayloadCheck(kind)

    def _apply_heartbeat(self, record: Record) -> None:
        if not Heartbeat.is_heartbeat(record):
            if record.value is None:
                self._nodes.pop((record.key or b"").decode(errors="replace"), None)
            return
        heartbeat = Heartbeat.decode(record)
        # A heartbeat from before this start is as old as its record. After that only the time of receipt counts, so
        # that clocks that differ between machines never make a live node dead.
        age_s = 0.0 if self._caught_up else max(0.0, time.time() - record.timestamp_ms / 1000)
        self._nodes[heartbeat.boot] = KnownNode(heartbeat, self._clock() - age_s)
        for boot, node in list(self._nodes.items()):
            if self._clock() - node.received_s > _FORGET_S:
                del self._nodes[boot]

    def _run(self) -> None:
        consumer = self._kafka.consumer()
        try:
            while not self._stop.is_set():
                self._follow(consumer)
        finally:
            consumer.close()

    def _follow(self, consumer: Consumer) -> None:
        try:
            names = [self._kafka.topic(t) for t in TOPICS]
            if not all(consumer.list_topics(n, timeout=5).topics[n].partitions for n in names):
                self._stop.wait(0.5)
                return
            nodes = TopicPartition(self._kafka.topic("nodes"), 0)
            self._backlog_end = consumer.get_watermark_offsets(nodes, timeout=5)[1]
            consumer.assign(
                [TopicPartition(self._kafka.topic(t), 0, self.positions.get((t, 0), OFFSET_BEGINNING)) for t in TOPICS]
            )
            while not self._stop.is_set():
                self.watchdog.beat()
                message = consumer.poll(0.5)
                if message is None:
                    continue
                error = message.error()
                if error is None:
                    self.apply_record(self._kafka.record(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    name, _, end = place_of_message(message)
                    self._record_position(self._kafka.unprefixed(name), end)
                elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                    self.positions = {}  # the topics were recreated
                    return
        except KafkaException as e:
            log_throttled("cluster view", "cannot read kinds and nodes: %s", e)
            self._stop.wait(1.0)
