"""The storekeeper's consumer of `results`: membership, reading and commits, all in one thread of its own.

What it reads goes into the inbox, and `wake` is called. It commits what it is told is safe, and only in the generation
of the group that it was read in. Before partitions are given up it waits, shortly, for the batch at work, so that the
next owner begins behind it. What Kafka does is waited for.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from agents.storekeeper.batch_buffer import BatchBuffer
from headrace.contract.records import Record
from headrace.kafka.client import Kafka, log_throttled, member_of
from headrace.kafka.groups import STOREKEEPER_GROUP
from headrace.process.failpoints import Failpoint, no_failpoint
from headrace.process.health import Watchdog

log = logging.getLogger(__name__)

_TOPIC = "results"
_POLL_S = 0.1
_FULL_S = 0.2  # how long a full inbox keeps the thread from the group
_SETTLE_S = 2.0  # for the batch at work when partitions are given up; below it all members would wait for this one
_COMMIT_EVERY_S = 0.2  # what is not committed is read again after a crash and passed over: cheap, but not for nothing
_BATCH, _BATCH_BYTES = 500, 4 * 1024 * 1024  # put into the inbox at once; 500 chunks of results would be 250 MB
_OPTIONS = {
    "session.timeout.ms": 6000,  # the least that brokers allow: a dead storekeeper's partitions move after it
    "heartbeat.interval.ms": 500,
    "max.poll.interval.ms": 30_000,
    # Reading everything again is harmless: what has ended is passed over. Nothing may be skipped.
    "auto.offset.reset": "earliest",
    "enable.partition.eof": False,
    "fetch.wait.max.ms": 100,  # how long a partition that is resumed may wait for its turn
}

Safe = tuple[int, Mapping[int, int]]  # generation; partition -> offset that may be committed


class OutcomeConsumer:
    """`safe` gives what may be committed, `on_member` is told the member id, `at` of each commit (for fault tests).

    `on_failure` is told, from the thread, what has ended it: nothing is read any more.
    """

    def __init__(
        self,
        kafka: Kafka,
        inbox: BatchBuffer,
        wake: Callable[[], None],
        safe: Callable[[], Safe],
        on_member: Callable[[str], None],
        failpoint: Failpoint = no_failpoint,
        on_failure: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self._kafka, self._inbox, self._wake, self._safe = kafka, inbox, wake, safe
        self._on_member, self._failpoint, self._on_failure = on_member, failpoint, on_failure
        self._consumer: Consumer = kafka.consumer(STOREKEEPER_GROUP, on_commit=self._on_commit, **_OPTIONS)
        self._generation: int | None = None  # None outside the group
        self._committed: dict[int, int] = {}
        self._commit_at = 0.0
        self._paused = False
        self._closing = threading.Event()
        self._watchdog = Watchdog("the storekeeper's consumer")
        self._thread = threading.Thread(target=self._run, name="outcomes", daemon=True)
        self.partitions: frozenset[int] = frozenset()

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Commits what is safe and leaves the group."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(15)

    def check(self) -> str | None:
        """For the role's health."""
        return self._watchdog.check() or (None if self._generation is not None else "has not joined its group")

    def _run(self) -> None:
        try:
            topic = self._kafka.topic(_TOPIC)
            self._consumer.subscribe(
                [topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            while not self._closing.is_set():
                self._watchdog.beat()
                self._flow()
                self._gather()
                if time.monotonic() >= self._commit_at:
                    self._commit()
        except Exception as e:
            log.exception("The storekeeper's consumer has failed")
            self._on_failure(e)
        finally:
            self._consumer.close()

    def _gather(self) -> None:
        message = self._consumer.poll(_POLL_S)
        records: list[Record] = []
        size, generation = 0, self._generation
        # One at a time: what poll() gives belongs to the assignment of that moment; a batch might straddle two.
        while message is not None:
            if generation != self._generation:
                records, size, generation = [], 0, self._generation
            if (record := self._record(message)) is not None:
                records.append(record)
                size += len(record.value or b"")
            message = self._consumer.poll(0) if len(records) < _BATCH and size < _BATCH_BYTES else None
        if records and generation == self._generation is not None:
            self._inbox.put(records)
            self._wake()

    def _record(self, message: Message) -> Record | None:
        if (error := message.error()) is None:
            return self._kafka.record(message)
        if error.code() != KafkaError._PARTITION_EOF:
            log_throttled(f"outcomes {error.name()}", "The storekeeper cannot read %s: %s", _TOPIC, error.str())
        return None

    def _flow(self) -> None:
        """A full inbox stops the reading: for a moment by not asking, then by a pause, as the group must go on."""
        room = self._inbox.wait_room(_FULL_S)
        if room == self._paused:
            (self._consumer.resume if room else self._consumer.pause)(self._places())
            self._paused = not room

    def _places(self) -> list[TopicPartition]:
        return [TopicPartition(self._kafka.topic(_TOPIC), p) for p in self.partitions]

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.partitions = frozenset(p.partition for p in partitions)
        self._generation, member = member_of(consumer)
        self._committed = {}
        self._inbox.begin(self._generation, self.partitions)
        self._on_member(member)
        self._wake()
        log.info("generation %d: %d partitions", self._generation, len(partitions))

    def _on_revoke(self, _: Consumer, __: list[TopicPartition]) -> None:
        self._inbox.end()
        if not self._inbox.wait_done(_SETTLE_S):
            log.info("partitions are given up while outcomes of theirs are at work: some events may come twice")
        self._commit()
        self._leave()

    def _on_lost(self, _: Consumer, __: list[TopicPartition]) -> None:
        self._inbox.end()
        self._leave()

    def _leave(self) -> None:
        """Before partitions go. What is paused is resumed first: librdkafka would remember it when they come back."""
        if self._paused:
            with contextlib.suppress(KafkaException):  # they are gone already
                self._consumer.resume(self._places())
        self._generation, self.partitions, self._paused = None, frozenset(), False

    def _commit(self) -> None:
        """Sent, and not waited for."""
        generation, safe = self._safe()
        self._commit_at = time.monotonic() + _COMMIT_EVERY_S
        moved = {p: offset for p, offset in safe.items() if self._committed.get(p) != offset}
        if not moved or generation != self._generation:
            return
        self._failpoint("commit")
        topic = self._kafka.topic(_TOPIC)
        try:
            self._consumer.commit(offsets=[TopicPartition(topic, p, o) for p, o in moved.items()], asynchronous=True)
        except KafkaException as e:
            log_throttled("outcome commit", "Offsets are committed later: %s", e.args[0].str())
            return
        self._committed |= moved

    def _on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        """What was refused is said again by the next commit, be it that nothing has moved since."""
        refused = partitions if error is not None else [p for p in partitions if p.error is not None]
        for place in refused:
            self._committed.pop(place.partition, None)
        if refused:
            log_throttled("outcome commit", "Offsets are committed later: %s", error or refused[0].error)
