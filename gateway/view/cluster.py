"""What nodes announce: the kinds there are, with their payload checks, and the nodes that live.

Read by a thread of its own from `kinds` and `nodes` (compacted, one partition each), from the beginning at each start.
A node lives while its heartbeats have been *received* within 10 s; the gateway never imports task code.
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
LIVE_S = 10.0  # ten heartbeats: a node that is silent longer is not counted on
# How long a kind is taken after its last node has gone: a rolling restart must not turn submissions away.
GRACE_S = 60.0
_FORGET_S = 600.0


@dataclass(frozen=True, slots=True)
class KnownNode:
    """A node's last heartbeat, and the monotonic time at which it was received."""

    beat: Heartbeat
    received: float


class ClusterView:
    """The thread that follows `kinds` and `nodes`. Its methods are safe from any thread."""

    def __init__(self, kafka: Kafka, clock: Callable[[], float] = time.monotonic) -> None:
        self._kafka, self._clock = kafka, clock
        self.watchdog = Watchdog("kinds and nodes")
        self._kinds: dict[str, PayloadCheck] = {}
        self._nodes: dict[str, KnownNode] = {}
        self.positions: dict[tuple[str, int], int] = {}
        self._kept_to = 0  # the end of `nodes` as reading it began
        self._caught_up = False  # whether the heartbeats kept from before this start have all been read
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

    def kind(self, name: str) -> PayloadCheck | None:
        """The payload check of a kind that is to be had, or None for one that no node announces.

        With no node alive at all, every kind that was announced counts: the queue is there to outlive restarts.
        """
        found = self._kinds.get(name)
        if found is None:
            return None
        since = self._clock() - GRACE_S
        if any(name in n.beat.kinds and n.received > since for n in list(self._nodes.values())) or not self.live():
            return found
        return None

    def kinds(self) -> list[tuple[KindInfo, list[str]]]:
        """Every kind that was announced, with the names of the live nodes that announce it now."""
        live = self.live()
        return [
            (check.kind, sorted(n.beat.node for n in live if name in n.beat.kinds))
            for name, check in sorted(self._kinds.items())
        ]

    def names(self) -> list[str]:
        """Kinds that `kind` would give."""
        return [name for name in sorted(self._kinds) if self.kind(name)]

    def live(self) -> list[KnownNode]:
        since = self._clock() - LIVE_S
        return [n for n in list(self._nodes.values()) if n.received > since and n.beat.state != "dead"]

    def nodes(self) -> list[tuple[KnownNode, float]]:
        """Nodes heard of in the last ten minutes, each with the seconds since, the newest boot of each name."""
        now = self._clock()
        newest: dict[str, KnownNode] = {}
        for node in sorted(self._nodes.values(), key=lambda n: (n.beat.started_ms, n.received)):
            newest[node.beat.node] = node
        return [(n, now - n.received) for _, n in sorted(newest.items()) if now - n.received < _FORGET_S]

    def take(self, record: Record) -> None:
        """Learns from one record; what it cannot read it passes over."""
        try:
            if record.topic == "kinds":
                self._take_kind(record)
            else:
                self._take_node(record)
        except (Undecodable, UsageError) as e:
            log_throttled(f"undecodable {record.topic}", "%s passed over: %s", record.source, e)
        self._reached(record.topic, record.offset + 1)

    def _reached(self, topic: str, following: int) -> None:
        self.positions = self.positions | {(topic, 0): following}
        self._caught_up = self._caught_up or (topic == "nodes" and following >= self._kept_to)

    def _take_kind(self, record: Record) -> None:
        if record.value is None:
            self._kinds.pop((record.key or b"").decode(errors="replace"), None)
            return
        kind = KindInfo.decode(record)
        known = self._kinds.get(kind.name)
        if known is None or known.kind != kind:
            self._kinds[kind.name] = PayloadCheck(kind)

    def _take_node(self, record: Record) -> None:
        if not Heartbeat.is_heartbeat(record):
            if record.value is None:
                self._nodes.pop((record.key or b"").decode(errors="replace"), None)
            return
        beat = Heartbeat.decode(record)
        # Read back at start, a heartbeat is as old as its record; from then on the moment of its receipt alone counts,
        # so that clocks that differ make no living node dead.
        age_s = 0.0 if self._caught_up else max(0.0, time.time() - record.timestamp_ms / 1000)
        self._nodes[beat.boot] = KnownNode(beat, self._clock() - age_s)
        for boot, node in list(self._nodes.items()):
            if self._clock() - node.received > _FORGET_S:
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
            self._kept_to = consumer.get_watermark_offsets(nodes, timeout=5)[1]
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
                    self.take(self._kafka.record(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    name, _, end = place_of_message(message)
                    self._reached(self._kafka.unprefixed(name), end)
                elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                    self.positions = {}  # the topics were made anew
                    return
        except KafkaException as e:
            log_throttled("cluster view", "kinds and nodes cannot be read: %s", e)
            self._stop.wait(1.0)
