"""The storekeeper's consumer of `results`: group membership, reading and commits, all in one thread of its own.

It puts what it reads into the batch buffer and calls `on_records`. It commits only offsets that `safe_offsets` returns,
and only in the generation of the group in which their records were read. Before it gives up partitions it waits a short
time for the current batch, so that the next owner begins after it. Partitions are paused until they are `readable`, and
all of them while the buffer is full. Errors of Kafka are retried.
"""

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from headrace.contract.records import Record
from headrace.errors import Retryable, UsageError
from headrace.kafka.client import Kafka, member_of
from headrace.kafka.groups import STOREKEEPER_GROUP
from headrace.kafka.lost_offsets import GroupWords, start_offsets
from headrace.kafka.reading import place_of
from headrace.process.failpoints import Failpoint, no_failpoint
from headrace.process.health import Watchdog
from headrace.process.throttled_log import log_throttled

from .batch_buffer import BatchBuffer

log = logging.getLogger(__name__)

_TOPIC = "results"
_POLL_S = 0.1
_FULL_S = 0.2  # how long a full buffer may keep the thread from polling the group
_SETTLE_S = 2.0  # for the current batch when partitions are revoked; meanwhile all members wait for this one
_COMMIT_EVERY_S = 0.2  # uncommitted outcomes are read again after a crash and passed over, which is cheap but not free
_BATCH, _BATCH_BYTES = 500, 4 * 1024 * 1024  # put into the buffer at once; 500 chunks of results would be 250 MB
_OPTIONS = {
    "session.timeout.ms": 6000,  # the least that brokers allow: a dead storekeeper's partitions wait so long
    "heartbeat.interval.ms": 500,
    "max.poll.interval.ms": 30_000,
    "enable.partition.eof": True,  # offsets of transactions' markers are committed too
    "fetch.wait.max.ms": 500,  # how long a partition that is resumed may wait for its turn
}

_WORDS = GroupWords(
    STOREKEEPER_GROUP,
    "storekeepers",
    "Tasks whose outcomes were there may never end: GET /stats/summary names them as lost, and they must be submitted "
    "again. Outcomes that are read a second time change nothing",
)
_LOST = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)

SafeOffsets = tuple[int, Mapping[int, int]]  # generation; partition -> offset that may be committed


class OutcomeConsumer:
    """`start` it, then `close` it. The callbacks run in its thread.

    `on_records`: the buffer has something new. `on_member`: the member id in the group. `failpoint`: called before each
    commit. `on_failure`: the error that ended the thread; nothing is read any more. `on_generation`: a generation of
    the group begins with those partitions, or is over (-1 and none). `readable`: those of its partitions whose records
    may be read; without it all are.
    """

    def __init__(
        self,
        kafka: Kafka,
        buffer: BatchBuffer,
        *,
        on_records: Callable[[], None],
        safe_offsets: Callable[[], SafeOffsets],
        on_member: Callable[[str], None],
        failpoint: Failpoint = no_failpoint,
        on_failure: Callable[[Exception], None] = lambda _: None,
        on_generation: Callable[[int, frozenset[int]], None] = lambda _, __: None,
        readable: Callable[[int | None], frozenset[int]] | None = None,
    ) -> None:
        self._kafka, self._buffer, self._on_records, self._safe_offsets = kafka, buffer, on_records, safe_offsets
        self._on_member, self._failpoint, self._on_failure = on_member, failpoint, on_failure
        self._on_generation, self._readable = on_generation, readable
        self._consumer: Consumer = kafka.consumer(STOREKEEPER_GROUP, on_commit=self._on_commit, **_OPTIONS)
        self._lost_offsets: UsageError | None = None
        self._rejoining = False
        self._committed: dict[int, int] = {}
        self._read: dict[int, int] = {}  # partition -> offset to which it has been read
        self._commit_at = 0.0
        self._paused: frozenset[int] = frozenset()
        self._closing = threading.Event()
        self._watchdog = Watchdog("the storekeeper's consumer")
        self._thread = threading.Thread(target=self._run, name="outcomes", daemon=True)
        # One for each assignment, and not Kafka's: its numbers begin again when the group is made anew.
        self._generations = itertools.count(1)
        self.generation: int | None = None  # None outside the group
        self.partitions: frozenset[int] = frozenset()

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Commits the safe offsets and leaves the group."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(15)

    def check(self) -> str | None:
        """For the role's health: None, or the reason in words."""
        return self._watchdog.check()

    def _run(self) -> None:
        try:
            self._subscribe()
            while not self._closing.is_set():
                self._watchdog.beat()
                self._pause_and_resume()
                self._poll_records()
                if self._lost_offsets is not None:
                    raise self._lost_offsets
                if self._rejoining:
                    self._rejoining = False
                    self._consumer.unsubscribe()
                    self._subscribe()
                if time.monotonic() >= self._commit_at:
                    self._commit()
        except Exception as e:
            log.exception("The storekeeper's consumer has failed")
            self._on_failure(e)
        finally:
            self._consumer.close()

    def _subscribe(self) -> None:
        topics = [self._kafka.topic(_TOPIC)]
        self._consumer.subscribe(topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)

    def _poll_records(self) -> None:
        message = self._consumer.poll(_POLL_S)
        records: list[Record] = []
        ends: dict[int, int] = {}
        size, generation = 0, self.generation
        # `poll` and not `consume`: one message belongs to the current assignment, a batch might span two of them.
        while message is not None:
            if generation != self.generation:
                records, ends, size, generation = [], {}, 0, self.generation
            if (record := self._record_of(message, ends)) is not None:
                records.append(record)
                size += len(record.value or b"")
            message = self._consumer.poll(0) if len(records) < _BATCH and size < _BATCH_BYTES else None
        if (records or ends) and generation == self.generation is not None:
            self._buffer.put_records(records, ends)
            self._on_records()

    def _record_of(self, message: Message, ends: dict[int, int]) -> Record | None:
        """The record in it, if any; adds to `ends` a partition's end that lies beyond its last record."""
        (_, partition), offset = place_of(self._kafka, message)
        if (error := message.error()) is None:
            if partition in self._paused:
                raise RuntimeError(f"a record of {_TOPIC}/{partition} was read before its index was whole")
            self._read[partition] = offset + 1
            return self._kafka.record(message)
        if error.code() == KafkaError._PARTITION_EOF:
            if offset > self._read.get(partition, 0):
                self._read[partition] = ends[partition] = offset
        elif error.code() in _LOST:
            self._rejoining = True  # the next assignment finds out whether the group has lost its place, or this member
        else:
            log_throttled(f"outcomes {error.name()}", "The storekeeper cannot read %s: %s", _TOPIC, error.str())
        return None

    def _pause_and_resume(self) -> None:
        """A full buffer first delays the next poll, then pauses the partitions: the group must still be polled."""
        has_room = self._buffer.wait_for_room(_FULL_S)
        wanted = self.partitions - self._readable_partitions() if has_room else self.partitions
        if pausing := wanted - self._paused:
            self._consumer.pause(self._places(pausing))
        if resuming := self._paused - wanted:
            self._consumer.resume(self._places(resuming))
        self._paused = wanted

    def _readable_partitions(self) -> frozenset[int]:
        return self.partitions if self._readable is None else self._readable(self.generation)

    def _places(self, partitions: Iterable[int]) -> list[TopicPartition]:
        return [TopicPartition(self._kafka.topic(_TOPIC), p) for p in partitions]

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        places = [(_TOPIC, p.partition) for p in partitions]
        try:
            starts = start_offsets(self._kafka, self._kafka.admin(), consumer, _WORDS, places)
        except (UsageError, Retryable) as e:
            self._lost_offsets, self._rejoining = (e, False) if isinstance(e, UsageError) else (None, True)
            log_throttled("outcome offsets", "The storekeeper cannot read its partitions: %s", e)
            consumer.assign([])
            return
        consumer.assign([TopicPartition(self._kafka.topic(t), p, at) for (t, p), at in starts.items()])
        self.partitions = frozenset(p.partition for p in partitions)
        self.generation, (_, member) = next(self._generations), member_of(consumer)
        self._committed, self._read = {}, {}
        self._buffer.begin_generation(self.generation)
        self._on_generation(self.generation, self.partitions)
        if self._readable is not None:
            consumer.pause(self._places(self.partitions))  # before the first record can be delivered
            self._paused = self.partitions
        self._on_member(member)
        self._on_records()
        log.info("generation %d: %d partitions", self.generation, len(partitions))

    def _on_revoke(self, _: Consumer, __: list[TopicPartition]) -> None:
        self._buffer.end_generation()
        self._on_generation(-1, frozenset())
        if not self._buffer.wait_idle(_SETTLE_S):
            log.info("partitions are given up before their current batch is done: some events may be sent twice")
        self._commit()
        self._drop_partitions()

    def _on_lost(self, _: Consumer, __: list[TopicPartition]) -> None:
        self._buffer.end_generation()
        self._on_generation(-1, frozenset())
        self._drop_partitions()

    def _drop_partitions(self) -> None:
        """Paused partitions are resumed first: librdkafka would keep them paused when they are assigned again."""
        if self._paused:
            with contextlib.suppress(KafkaException):  # they are gone already
                self._consumer.resume(self._places(self._paused))
        self.generation, self.partitions, self._paused = None, frozenset(), frozenset()

    def _commit(self) -> None:
        """Sends the safe offsets that have changed, and does not wait for the answer."""
        generation, safe = self._safe_offsets()
        self._commit_at = time.monotonic() + _COMMIT_EVERY_S
        changed = {p: offset for p, offset in safe.items() if self._committed.get(p) != offset}
        if not changed or generation != self.generation:
            return
        self._failpoint("commit")
        topic = self._kafka.topic(_TOPIC)
        try:
            self._consumer.commit(offsets=[TopicPartition(topic, p, o) for p, o in changed.items()], asynchronous=True)
        except KafkaException as e:
            log_throttled("outcome commit", "Offsets are committed later: %s", e.args[0].str())
            return
        self._committed |= changed

    def _on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        """Refused offsets are committed again the next time, even if they have not changed since."""
        refused = partitions if error is not None else [p for p in partitions if p.error is not None]
        for at in refused:
            self._committed.pop(at.partition, None)
        if refused:
            log_throttled("outcome commit", "Offsets are committed later: %s", error or refused[0].error)
