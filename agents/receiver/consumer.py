"""The receiver's consumer of the task topics: group membership, reading and commits, all in one thread of its own.

It hands batches of steps to `on_batch`, an empty one at each assignment, and commits the offsets of the steps that
`settle` reports, only in the generation of the group in which they were read. A plain consumer, because librdkafka has
all of Kafka's codecs built in. Errors of Kafka are logged and retried.
"""

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from headrace.contract.records import Place, Record
from headrace.errors import Retryable, UsageError
from headrace.kafka.client import Kafka, member_of
from headrace.kafka.groups import RECEIVER_GROUP
from headrace.kafka.lost_offsets import GroupWords, start_offsets
from headrace.kafka.reading import place_of
from headrace.process.health import Watchdog
from headrace.process.taking_over import TakingOver
from headrace.process.throttled_log import log_throttled

from ..intake.consumer import TOPICS

log = logging.getLogger(__name__)

_POLL_S = 0.25
_FULL_S = 0.02  # while the agent has enough to do: how often the group is served
_COMMIT_EVERY_S = 1.0  # what is read again after a crash is recognised as announced
_BATCH = 500
MOST_UNSETTLED = 5000  # steps that are handed over and not settled; beyond it nothing is fetched
_OPTIONS = {
    "session.timeout.ms": 6000,  # the least that brokers allow; then a dead node's partitions move
    "heartbeat.interval.ms": 1500,
    "max.poll.interval.ms": 30_000,
    "partition.assignment.strategy": "range",
    "enable.partition.eof": True,
    "queued.min.messages": 2000,
    "queued.max.messages.kbytes": 8192,
}
_WORDS = GroupWords(
    RECEIVER_GROUP,
    "workers",
    "Tasks that were submitted there may never be announced on lifecycle.received. Those that are read a second time "
    "are recognised",
)
_LOST = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)


@dataclass(frozen=True, slots=True)
class Step:
    """One step forward in a partition, to `next_offset`: over a record, or over what holds no committed record.

    Markers of transactions and the records of aborted ones are only passed over; they are part of no lag.
    """

    place: Place
    next_offset: int
    record: Record | None


@dataclass(frozen=True, slots=True)
class StepBatch:
    """Steps in the order of their partitions, read in one generation of the group. Without any: it has begun."""

    generation: int
    steps: tuple[Step, ...]


class ReceiverConsumer:
    """`start` it, then `close` it. `on_batch` and `on_member` are called in its thread, with the group's member id."""

    def __init__(
        self,
        kafka: Kafka,
        on_batch: Callable[[StepBatch], None],
        on_member: Callable[[str, str], None] = lambda _, __: None,
        taking_over: TakingOver | None = None,
    ) -> None:
        """`taking_over` learns of each assignment, before `on_batch`; the caller ends it."""
        self._kafka, self._on_batch, self._on_member = kafka, on_batch, on_member
        self._taking_over = taking_over or TakingOver(lambda: None)
        self._consumer: Consumer = kafka.consumer(RECEIVER_GROUP, on_commit=self._on_commit, **_OPTIONS)
        self._lost_offsets: UsageError | None = None
        self.failure: Exception | None = None  # what has ended the thread
        self.on_failure: Callable[[Exception], None] = lambda _: None
        self._generations = itertools.count(1)
        self._lock = threading.Lock()  # guards the next five
        self._generation: int | None = None  # None outside the group; this node's own count of assignments
        self._settled: dict[Place, int] = {}
        self._unsettled = 0
        self._rejoining = False
        self._reads_again = False  # since an error, and until the next assignment
        self._committed: dict[Place, int] = {}
        self._read: dict[Place, int] = {}
        self._commit_at = 0.0
        self._paused = False
        self._closing = threading.Event()
        self._watchdog = Watchdog("the receiver's consumer")
        self._thread = threading.Thread(target=self._run, name="receiver", daemon=True)
        self.places: tuple[Place, ...] = ()

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Commits what is settled and leaves the group."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(15)

    def check(self) -> str | None:
        """For the node's health: None, or the reason in words."""
        if self.failure is not None:
            return f"has failed: {self.failure}"
        again = "reads on from its committed offsets" if self._reads_again else None
        return self._watchdog.check() or again or self._taking_over.check()

    def is_current(self, generation: int) -> bool:
        """Whether this node still has its partitions of that generation. Safe from any thread."""
        return self._generation == generation

    def settle(self, generation: int, step: Step) -> None:
        """The step is done, and so is every earlier one of its partition. Safe from any thread."""
        with self._lock:
            if generation == self._generation:
                self._settled[step.place] = step.next_offset
                self._unsettled -= 1

    def read_again(self) -> None:
        """Reads on from the committed offsets, in a new generation: some steps will never be settled."""
        with self._lock:
            self._generation, self._rejoining, self._reads_again = None, True, True

    def _run(self) -> None:
        try:
            self._subscribe()
            while not self._closing.is_set():
                self._watchdog.beat()
                if self._rejoining:
                    self._rejoining = False
                    self._consumer.unsubscribe()
                    self._subscribe()
                self._pause_while_full()
                self._read_batch()
                if self._lost_offsets is not None:
                    raise self._lost_offsets
                if time.monotonic() >= self._commit_at:
                    self._commit()
        except Exception as e:
            log.exception("The receiver's consumer has failed; its node ends")
            self.failure = e
            self.on_failure(e)
        finally:
            self._consumer.close()

    def _subscribe(self) -> None:
        topics = [self._kafka.topic(t) for t in TOPICS]
        self._consumer.subscribe(topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)

    def _read_batch(self) -> None:
        message = self._consumer.poll(_FULL_S if self._paused else _POLL_S)
        steps: list[Step] = []
        generation = self._generation
        # `poll` and not `consume`: one message belongs to the current assignment, a batch might span two of them.
        while message is not None:
            if generation != self._generation:
                steps, generation = [], self._generation
            if (step := self._step_of(message)) is not None:
                steps.append(step)
            message = self._consumer.poll(0) if len(steps) < _BATCH else None
        if not steps or generation is None:
            return
        with self._lock:
            if generation != self._generation:
                return
            self._unsettled += len(steps)
        self._on_batch(StepBatch(generation, tuple(steps)))

    def _step_of(self, message: Message) -> Step | None:
        error = message.error()
        place, offset = place_of(self._kafka, message)
        if error is None:
            self._read[place] = offset + 1
            return Step(place, offset + 1, self._kafka.record(message))
        if error.code() == KafkaError._PARTITION_EOF:
            if offset <= self._read.get(place, 0):
                return None
            self._read[place] = offset
            return Step(place, offset, None)
        if error.code() in _LOST:
            self.read_again()  # the next assignment finds out whether the group has lost its place, or this member
            return None
        log_throttled(f"receiver {error.name()}", "The receiver cannot read %s: %s", place[0], error.str())
        return None

    def _pause_while_full(self) -> None:
        is_full = self._unsettled >= MOST_UNSETTLED
        if is_full != self._paused:
            (self._consumer.pause if is_full else self._consumer.resume)(self._topic_partitions())
            self._paused = is_full

    def _topic_partitions(self) -> list[TopicPartition]:
        return [TopicPartition(self._kafka.topic(t), p) for t, p in self.places]

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        places = [(self._kafka.unprefixed(p.topic), p.partition) for p in partitions]
        try:
            starts = start_offsets(self._kafka, self._kafka.admin(), consumer, _WORDS, places)
        except (UsageError, Retryable) as e:
            self._lost_offsets, self._rejoining = (e, False) if isinstance(e, UsageError) else (None, True)
            log_throttled("receiver offsets", "The receiver cannot read its partitions: %s", e)
            consumer.assign([])
            return
        consumer.assign([TopicPartition(self._kafka.topic(t), p, at) for (t, p), at in starts.items()])
        # Not Kafka's: its numbers begin again when the group is made anew.
        generation, (_, member) = next(self._generations), member_of(consumer)
        with self._lock:
            self._generation, self._settled, self._unsettled = generation, {}, 0
            self._reads_again = False
        self._committed, self._read = {}, {}
        self.places = tuple(places)
        self._taking_over.begin(generation, places)
        if places:
            self._on_batch(StepBatch(generation, ()))
        self._on_member(RECEIVER_GROUP, member)
        log.info("generation %d: %d partitions", generation, len(partitions))

    def _on_revoke(self, _: Consumer, __: list[TopicPartition]) -> None:
        self._commit()
        self._drop_partitions()

    def _on_lost(self, _: Consumer, __: list[TopicPartition]) -> None:
        self._drop_partitions()

    def _drop_partitions(self) -> None:
        """Paused partitions are resumed first: librdkafka would keep them paused when they are assigned again."""
        if self._paused:
            with contextlib.suppress(KafkaException):  # they are gone already
                self._consumer.resume(self._topic_partitions())
        with self._lock:
            self._generation, self._settled, self._unsettled = None, {}, 0
        self.places, self._paused = (), False
        self._taking_over.leave()

    def _commit(self) -> None:
        """Sends the settled offsets that have changed, and does not wait for the answer."""
        self._commit_at = time.monotonic() + _COMMIT_EVERY_S
        with self._lock:
            settled = dict(self._settled) if self._generation is not None else {}
        changed = {place: at for place, at in settled.items() if self._committed.get(place) != at}
        if not changed:
            return
        offsets = [TopicPartition(self._kafka.topic(t), p, at) for (t, p), at in changed.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as e:
            log_throttled("receiver commit", "The receiver's offsets are committed later: %s", e.args[0].str())
            return
        self._committed |= changed

    def _on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        """Refused offsets are committed again the next time, even if they have not changed since."""
        refused = partitions if error is not None else [p for p in partitions if p.error is not None]
        for at in refused:
            self._committed.pop((self._kafka.unprefixed(at.topic), at.partition), None)
        if refused:
            text = error or refused[0].error
            log_throttled("receiver commit", "The receiver's offsets are committed later: %s", text)
