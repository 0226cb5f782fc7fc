"""Folds the log into the status store: a consumer without a group reads all partitions with records about tasks.

One thread polls, folds a batch, commits it together with its positions, and notifies listeners. Once it has read what
the log held at its start, it reads in batches, up to a second behind; what somebody waits for the close readers read
before it, and call `fold` as well. A restart resumes at the stored positions. Where Kafka no longer holds one, the
thread reads that partition from its earliest record and logs it. Undecodable records are counted and skipped. When the
disk is full it waits and tries again; nothing is lost. A file that is found damaged, by this thread or by a handler, is
made anew and filled from the log.
"""

import logging
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from headrace.contract.records import Place, Record
from headrace.errors import Retryable
from headrace.kafka.client import Kafka
from headrace.kafka.follower import Follower
from headrace.kafka.metadata import installation_name
from headrace.kafka.partition_counts import PartitionCounts
from headrace.kafka.reading import first_offsets
from headrace.storage.sqlite import Damaged, trouble

from ..metrics import Metrics
from .batch import EventBatch
from .event_topics import EVENT_TOPICS
from .pruner import Pruner
from .snapshots import Snapshots
from .store import StatusStore

log = logging.getLogger(__name__)

# With the task topics, every gateway knows a submission as soon as Kafka has acknowledged it.
TASK_TOPICS = ("tasks.normal", "tasks.high")
TOPICS = (*TASK_TOPICS, *EVENT_TOPICS, "tasks.redriven")
MAX_BATCH = 4000
_LOOK_EVERY_S = 30.0  # whether this is still the same cluster
# One request for all partitions costs the broker 2 ms, and without these options each record of a lone task makes one.
_IN_BATCHES = {"fetch.min.bytes": 1_000_000, "fetch.wait.max.ms": 1000}
_PASSING = {
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
}  # librdkafka reconnects by itself


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How far the view has read: the next offset by (topic, partition), and the last stored event's `seq`."""

    positions: Mapping[Place, int] = field(default_factory=dict)
    seq: int = 0

    def reached(self, ends: Mapping[Place, int]) -> bool:
        return all(self.positions.get(place, 0) >= end for place, end in ends.items())


class Projector(Follower):
    """The folding thread. It calls `on_commit` after each commit with the ids of the tasks that changed."""

    batch_size = MAX_BATCH
    retried_errors = (KafkaException, Retryable, sqlite3.Error)

    def __init__(
        self,
        kafka: Kafka,
        store: StatusStore,
        metrics: Metrics,
        on_commit: Callable[[set[bytes]], None],
        snapshots: Snapshots | None = None,
        view_days: int = 0,
    ) -> None:
        """`view_days`: days that a task is remembered after its end; 0 = for ever."""
        super().__init__(kafka, "status view", TOPICS)
        self._store, self._metrics, self._on_commit = store, metrics, on_commit
        self._snapshots = snapshots  # to start from, until that has been tried
        self._pruner = Pruner(store, view_days)
        self._looked_at = 0.0
        self._in_batches = False
        self._folding = threading.RLock()  # for all that writes
        self.counts: PartitionCounts | None = None  # of the topics as they are followed; None until they are known
        self._epoch = 0  # rises when what other readers have read may no longer fit
        self.snapshot = Snapshot(store.positions(), store.last_seq())

    def check(self) -> str | None:
        """For health: None, or why the view is not being kept up to date."""
        copying = self._snapshots.doing if self._snapshots is not None else None
        return self.failure or copying or super().check()

    def whole_positions(self) -> Mapping[Place, int] | None:
        """How far the view has read; None while it has not read what the log held at the start."""
        return self.snapshot.positions if self.catching_up.whole() and self._store.damage is None else None

    def failure_words(self, error: Exception) -> str:
        return trouble(error) if isinstance(error, sqlite3.Error) else super().failure_words(error)

    def consumer_options(self) -> dict[str, Any]:
        self._in_batches = self.catching_up.whole()
        return _IN_BATCHES if self._in_batches else {}

    def start_positions(self, ends: Mapping[Place, int]) -> Mapping[Place, int]:
        with self._folding:
            return self._start_positions(ends)

    def _start_positions(self, ends: Mapping[Place, int]) -> Mapping[Place, int]:
        self._epoch += 1
        if self._store.damage is not None:
            self._remake()
        self._adopt_cluster()
        if self._snapshots is not None:  # only at the start: open streams know their place by numbers of this file
            self._restore(self._snapshots, ends)
            self._snapshots = None
        found = Counter(topic for topic, _ in ends)
        self.counts = PartitionCounts(found[EVENT_TOPICS[0]], {topic: found[topic] for topic in TASK_TOPICS})
        self._looked_at = time.monotonic()
        return self.snapshot.positions

    def apply_batch(self, records: Sequence[Record], positions: Mapping[Place, int]) -> None:
        self.fold(records, positions, self._epoch)

    def reading(self) -> tuple[int, Mapping[Place, int]]:
        """The epoch, for `fold`, and the positions from which another reader may read in it."""
        with self._folding:
            return self._epoch, self.snapshot.positions

    def fold(self, records: Sequence[Record], positions: Mapping[Place, int], epoch: int) -> None:
        """Folds those records that nobody has folded yet; from any thread that has read them in `epoch`.

        `positions`: the next offsets after the records. Before them the reader has left out nothing that the view
        lacks.
        """
        with self._folding:
            read = self.snapshot.positions
            ahead = {place: at for place, at in positions.items() if at > read.get(place, -1)}
            if epoch != self._epoch or not ahead:
                return
            batch = EventBatch(self._store, self._metrics)
            batch.fold_records([r for r in records if r.offset >= read.get((r.topic, r.partition), 0)])
            seq = self._store.apply(batch.tasks.values(), batch.events, batch.progress, ahead)
            self.snapshot = Snapshot({**read, **ahead}, max(seq, self.snapshot.seq))
        self._on_commit(batch.changed_ids)

    def notes(self) -> list[str]:
        """What the view lacks for good, a sentence for each partition. Gaps in other topics are harmless: submissions
        are trimmed once they are in `lifecycle.received`, and progress expires."""
        return [
            f"the status view has a gap in {self._kafka.topic(topic)}, partition {p}: {why}. Tasks whose events were "
            "there are shown as they were before, or not at all"
            for (topic, p), why in self.gaps.items()
            if topic in (*EVENT_TOPICS, "tasks.redriven") and topic != "progress"
        ]

    def position_lost(self, place: Place) -> None:
        with self._folding:
            self._epoch += 1
            positions = {p: at for p, at in self.snapshot.positions.items() if p != place}
            self.snapshot = Snapshot(positions, self.snapshot.seq)

    def partition_failed(self, error: KafkaError) -> None:
        if error.code() not in _PASSING:
            raise KafkaException(error)

    def on_turn(self) -> None:
        if self._store.damage is not None:  # a handler has met it
            raise Damaged(self._store.damage)
        if self._store.rebuilds.why is not None and self.catching_up.whole():
            self._store.rebuilds.end()
        if self.catching_up.whole():  # before, a record that is still to come could bring half a task back
            with self._folding:
                self._pruner.turn()
            if not self._in_batches:
                self.restart()
        if time.monotonic() - self._looked_at > _LOOK_EVERY_S:
            self._looked_at = time.monotonic()
            with self._folding:
                if not self._adopt_cluster():
                    self.restart()

    def _restore(self, snapshots: Snapshots, ends: Mapping[Place, int]) -> None:
        installation = installation_name(self._kafka.admin(), self._kafka, TOPICS[0], 5)
        if snapshots.restore(self._store, installation, first_offsets(self._kafka, self._kafka.admin(), ends), ends):
            self.snapshot = Snapshot(self._store.positions(), self._store.last_seq())
            self._adopt_cluster()

    def _remake(self) -> None:
        log.warning("the status view's file is damaged (%s): it is made anew from the log", self._store.damage)
        self._store.remake(self.snapshot.seq)
        self.snapshot = Snapshot(seq=self.snapshot.seq)
        self.catching_up.begin_again()

    def _adopt_cluster(self) -> bool:
        """False when the stored view was another cluster's; then it is empty now."""
        if self._store.adopt_cluster(installation_name(self._kafka.admin(), self._kafka, TOPICS[0], 5)):
            return True
        log.warning("the stored status view belongs to another Kafka cluster: rebuilding it from this cluster's log")
        self._epoch += 1
        self.snapshot = Snapshot()
        self.catching_up.begin_again()
        return False
