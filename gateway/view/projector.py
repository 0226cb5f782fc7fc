"""Folds the log into the status store: a consumer without a group reads all partitions with records about tasks.

One thread polls, folds a batch, commits it together with its positions, and notifies listeners. A restart resumes at
the stored positions. Where Kafka no longer holds one, the thread reads that partition from its earliest record and
logs it. Undecodable records are counted and skipped. When the disk is full it waits and tries again; nothing is lost.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from gateway.metrics import Metrics
from gateway.view.batch import EventBatch
from gateway.view.store import EVENT_TOPICS, StatusStore
from headrace.contract.records import Record
from headrace.kafka.client import Kafka, log_throttled, place_of_message
from headrace.kafka.metadata import installation, partitions_of
from headrace.process.health import Watchdog

log = logging.getLogger(__name__)

# With the task topics, every gateway knows a submission as soon as Kafka has acknowledged it.
TOPICS = ("tasks.normal", "tasks.high", *EVENT_TOPICS)
MAX_BATCH = 4000
_POLL_S = 0.2
_LOOK_EVERY_S = 30.0  # for new partitions
_PROGRESS_KEPT_MS = 7 * 86_400_000  # the retention of its topic
_PASSING = {
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
}  # librdkafka reconnects by itself


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How far the view has read: the next offset by (topic, partition), and the last stored event's `seq`."""

    positions: dict[tuple[str, int], int] = field(default_factory=dict)
    seq: int = 0

    def reached(self, ends: dict[tuple[str, int], int]) -> bool:
        return all(self.positions.get(place, 0) >= end for place, end in ends.items())


class Projector:
    """The folding thread. It calls `on_commit` after each commit with the ids of the tasks that changed."""

    def __init__(
        self, kafka: Kafka, store: StatusStore, metrics: Metrics, on_commit: Callable[[set[bytes]], None]
    ) -> None:
        self._kafka, self._store, self._metrics, self._on_commit = kafka, store, metrics, on_commit
        self._admin = kafka.admin()  # its requests do not wait behind a fetch
        self.watchdog = Watchdog("status view")
        self.failure: str | None = None  # why it cannot read or commit now
        self.snapshot = Snapshot(store.positions(), store.last_seq())
        self.partition_count = 0  # of each keyed topic; 0 until the topics are known
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="status-view", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def check(self) -> str | None:
        """For health: None, or why the view is not being kept up to date."""
        return self.failure or self.watchdog.check()

    def _run(self) -> None:
        consumer = self._kafka.consumer()
        try:
            while not self._stop.is_set():
                self._follow(consumer)
        finally:
            consumer.close()

    def _follow(self, consumer: Consumer) -> None:
        """Assigns all partitions and folds their records until something fails; then keeps the reason and waits 1 s."""
        try:
            self._assign(consumer)
            looked = time.monotonic()
            while not self._stop.is_set():
                self.watchdog.beat()
                if time.monotonic() - looked > _LOOK_EVERY_S:
                    looked = time.monotonic()
                    self._look_again(consumer)
                first = consumer.poll(_POLL_S)
                if first is not None:
                    self._take([first, *consumer.consume(MAX_BATCH - 1, 0)], consumer)
                    self.failure = None
        except (KafkaException, sqlite3.Error) as e:
            self.failure = f"{type(e).__name__}: {e}"
            log_throttled("status view", "the status view cannot go on, and retries: %s", self.failure)
            self._stop.wait(1.0)

    def _assign(self, consumer: Consumer) -> None:
        places = self._places()
        while not places and not self._stop.wait(0.5):
            self.watchdog.beat()
            log_throttled("no topics", "topics are missing: run `headrace topics apply`")
            self.failure = "topics are missing"
            places = self._places()
        self.failure = None
        known = self.snapshot.positions
        consumer.assign(
            [TopicPartition(self._kafka.topic(t), p, known.get((t, p), OFFSET_BEGINNING)) for t, p in places]
        )

    def _places(self) -> list[tuple[str, int]]:
        """Every (topic, partition) to read; empty while a topic is missing."""
        names = [self._kafka.topic(t) for t in TOPICS]
        found = partitions_of(self._admin, names, 5)
        if len(found) < len(names):
            return []
        if not self._store.adopt_cluster(installation(self._admin, self._kafka, TOPICS[0], 5)):
            log.warning(
                "the stored status view belongs to another Kafka cluster: rebuilding it from this cluster's log"
            )
            self.snapshot = Snapshot()
        self.partition_count = len(found[names[0]])
        return [(t, p) for t, n in zip(TOPICS, names, strict=True) for p in found[n]]

    def _look_again(self, consumer: Consumer) -> None:
        before = self.partition_count
        if self._places() and self.partition_count != before:
            log.info("the keyed topics now have %d partitions", self.partition_count)
            self._assign(consumer)
        self._store.delete_progress(int(time.time() * 1000) - _PROGRESS_KEPT_MS)

    def _take(self, messages: Iterable[Message], consumer: Consumer) -> None:
        records: list[Record] = []
        positions: dict[tuple[str, int], int] = {}
        lost = []
        for message in messages:
            error = message.error()
            if error is None:
                record = self._kafka.record(message)
                records.append(record)
                positions[record.topic, record.partition] = record.offset + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                self._at_end(message, positions)
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                lost.append(place_of_message(message)[:2])
            elif error.code() not in _PASSING:
                raise KafkaException(error)
        for topic, partition in lost:
            positions[self._kafka.unprefixed(topic), partition] = _earliest(consumer, topic, partition)
        self._commit(records, positions)
        if lost:
            self._assign(consumer)

    def _at_end(self, message: Message, positions: dict[tuple[str, int], int]) -> None:
        """Counts the end of a partition as read: its last records may be transaction markers, never delivered."""
        topic, partition, end = place_of_message(message)
        place = self._kafka.unprefixed(topic), partition
        if end > max(self.snapshot.positions.get(place, -1), positions.get(place, -1)):
            positions[place] = end

    def _commit(self, records: list[Record], positions: dict[tuple[str, int], int]) -> None:
        if not positions:
            return
        batch = EventBatch(self._store, self._metrics)
        batch.fold_records(records)
        seq = self._store.apply(batch.tasks.values(), batch.events, batch.progress, positions)
        self.snapshot = Snapshot(self.snapshot.positions | positions, seq)
        self._on_commit(batch.changed_ids)


def _earliest(consumer: Consumer, topic: str, partition: int) -> int:
    low: int = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=5)[0]
    log.warning(
        "%s/%d: Kafka no longer holds the stored position; reading on from the earliest record, %d",
        topic,
        partition,
        low,
    )
    return low
