"""A thread that follows whole topics from a known offset on, without a group, and knows how far it has read.

Base of a worker's cancellations, registry and delegation, and of the gateway's projector and cluster view. When Kafka
comes back after an outage, the thread resumes by itself. Partitions that are added meanwhile are read from their
beginning, a few seconds later. A partition that no longer holds the position, because it was recreated or trimmed, is
read from its earliest record, after `position_lost` has been called.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from headrace.contract.records import Place, Record
from headrace.errors import Retryable, Undecodable
from headrace.kafka.client import Kafka
from headrace.kafka.metadata import partitions_of
from headrace.kafka.partition_watch import PartitionWatch
from headrace.kafka.reading import end_offsets, error_text, first_offsets, place_of, refresh_leaders
from headrace.process.catching_up import CatchingUp
from headrace.process.health import Watchdog
from headrace.process.throttled_log import log_throttled

log = logging.getLogger(__name__)

_TURN_S = 0.1
_RETRY_S = 0.5


class Follower:
    """A subclass applies records one by one in `apply_record`, or a batch at a time in `apply_batch`.

    Its other hooks are `consumer_options`, `start_positions`, `save_positions`, `position_lost`, `partition_failed` and
    `on_turn`. All of them run in the follower's thread. An error of `retried_errors` makes it follow again after a
    pause, from `start_positions` on, and `failure` says why meanwhile.
    """

    batch_size = 500  # records at most
    retried_errors: tuple[type[Exception], ...] = (KafkaException, Retryable)

    def __init__(self, kafka: Kafka, name: str, topics: Sequence[str]) -> None:
        """`name` is for health, logs and the thread; `topics` come without the installation's prefix."""
        self._kafka, self._name, self._topics = kafka, name, topics
        self._positions: Mapping[Place, int] = {}  # never changed, only replaced
        self._read = threading.Condition()  # guards and announces changes of the positions
        self._closing = threading.Event()
        self._restarting = False
        self._lost: dict[Place, int] = {}  # position; to be read from their earliest record at the next start
        self.gaps: Mapping[Place, str] = {}  # what was never read and is gone, in words; only replaced
        self._watchdog = Watchdog(name)
        self.catching_up = CatchingUp(lambda: self._positions)
        self._places: tuple[Place, ...] = ()
        self._partition_watch = PartitionWatch(kafka, topics)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.failure: str | None = None  # why it cannot follow now
        self.on_undecodable: Callable[[str], None] = lambda _: None  # called with the topic of the record

    def apply_record(self, record: Record) -> None:
        """Applies one record; one that raises Undecodable is logged, counted and skipped."""
        raise NotImplementedError

    def apply_batch(self, records: Sequence[Record], positions: Mapping[Place, int]) -> None:
        """Applies records in order; `positions` are those that change, and count as read when this returns."""
        for record in records:
            try:
                self.apply_record(record)
            except Undecodable as e:
                self.on_undecodable(record.topic)
                log_throttled(f"{self._name} undecodable", "%s skips %s: %s", self._name, record.source, e.detail)
        self.save_positions(positions)

    def save_positions(self, positions: Mapping[Place, int]) -> None:
        """Called after each batch with the positions that it changes, before they count as read."""

    def start_positions(self, ends: Mapping[Place, int]) -> Mapping[Place, int]:
        """Where to begin; a place that is missing here is read from its beginning. `ends` has all places."""
        return {}

    def consumer_options(self) -> Mapping[str, Any]:
        """librdkafka's options for the consumer; asked at each start."""
        return {}

    def position_lost(self, place: Place) -> None:
        """Called when the log does not hold the position of that place; reading goes on at its earliest record."""

    def partition_failed(self, error: KafkaError) -> None:
        """Called with any other error of a partition; librdkafka repeats the fetch by itself."""

    def on_turn(self) -> None:
        """Called several times a second."""

    def failure_words(self, error: Exception) -> str:
        """What one of `retried_errors` means, for people."""
        return error_text(error) if isinstance(error, KafkaException) else str(error)

    @property
    def positions(self) -> Mapping[Place, int]:
        """The next offset of each place that has been read; safe from any thread."""
        return self._positions

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join(10)

    def look_soon(self) -> None:
        """Follows new partitions at once, and not within seconds: for who has met one. Safe from any thread."""
        self._partition_watch.look_soon()

    def restart(self) -> None:
        """Follows again from `start_positions` on, with the partitions that there are then. For the hooks."""
        self._restarting = True

    @property
    def places(self) -> Sequence[Place]:
        """All partitions of the topics; empty before they are known."""
        return self._places

    def check(self) -> str | None:
        """For health: None, or that the thread is silent, or how much of the log it has still to read."""
        return self._watchdog.check() or self.catching_up.check()

    def request_ends(self) -> "dict[Place, Future[Any]]":
        """Asks Kafka how long the topics are now; for `wait_read`. Empty before the topics are known."""
        spec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = {TopicPartition(self._kafka.topic(t), p): spec for t, p in self._places}
        if not asked:
            return {}
        answers = self._kafka.admin().list_offsets(
            asked, request_timeout=10, isolation_level=IsolationLevel.READ_COMMITTED
        )
        return {(self._kafka.unprefixed(at.topic), at.partition): f for at, f in answers.items()}

    def wait_read(self, ends: "Mapping[Place, Future[Any]]", timeout_s: float) -> bool:
        """Whether everything that was there at `request_ends` has been read, within that time."""
        if not ends:
            return False
        deadline = time.monotonic() + timeout_s
        try:
            wanted = {place: f.result(max(0.0, deadline - time.monotonic())).offset for place, f in ends.items()}
        except (KafkaException, TimeoutError):
            refresh_leaders(self._kafka.admin())
            return False
        with self._read:
            return self._read.wait_for(
                lambda: all(self._positions.get(place, -1) >= end for place, end in wanted.items()),
                max(0.0, deadline - time.monotonic()),
            )

    def wait_caught_up(self, timeout_s: float) -> bool:
        """Whether all that is there now has been read, within that time."""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            with self._read:
                if not self._read.wait_for(lambda: bool(self._places), left_s):
                    return False
            if self.wait_read(self.request_ends(), deadline - time.monotonic()):
                return True
        return False

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._follow()
            except self.retried_errors as e:
                self.failure = self.failure_words(e)
                log_throttled(self._name, "%s cannot go on, and retries: %s", self._name, self.failure)
                self._closing.wait(_RETRY_S)
            except Exception:
                log.exception("%s has failed, and retries", self._name)
                self._closing.wait(2 * _RETRY_S)

    def _follow(self) -> None:
        consumer = self._kafka.consumer(None, **self.consumer_options())
        self._restarting = False
        try:
            self._assign(consumer)
            self.failure = None
            while not self._closing.is_set() and not self._restarting:
                self._watchdog.beat()
                self.on_turn()
                self._look_for_partitions()
                message = consumer.poll(_TURN_S)
                if message is not None:  # a tombstone's message is falsy
                    self._apply_messages([message, *consumer.consume(self.batch_size - 1, 0)])
                    self.failure = None
        finally:
            consumer.close()

    def _look_for_partitions(self) -> None:
        if self._partition_watch.changed():
            log.info("%s: the topics have other partitions now, and are followed anew", self._name)
            self.restart()

    def _assign(self, consumer: Consumer) -> None:
        places = self._find_places()
        self._partition_watch.begin(places)
        ends = end_offsets(self._kafka, self._kafka.admin(), places)
        kept = {place: at for place, at in self.start_positions(ends).items() if place not in self._lost}
        # Requested here, because librdkafka takes half a second to find out where a log begins.
        first = first_offsets(self._kafka, self._kafka.admin(), places)
        for place in [p for p, at in kept.items() if not first.get(p, at) <= at <= ends.get(p, at)]:
            self._lost[place] = kept.pop(place)
            self._lose_position(place)
        self.gaps = {**self.gaps, **{p: _gap(at, first[p], ends[p]) for p, at in self._lost.items() if p in first}}
        starts = {**first, **kept}
        with self._read:
            self._positions, self._places = kept, tuple(places)
            self._read.notify_all()  # when everything has been read already, nothing else wakes those who wait
        self.catching_up.begin(starts, ends)
        # An empty place has been read: a fetch that finds nothing would say so half a second later.
        self._advance((), {place: end for place, end in ends.items() if starts[place] == end})
        consumer.assign([TopicPartition(self._kafka.topic(t), p, starts[t, p]) for t, p in places])
        self._lost.clear()

    def _find_places(self) -> list[Place]:
        """All partitions of the topics; Retryable when a topic is missing."""
        names = {topic: self._kafka.topic(topic) for topic in self._topics}
        found = partitions_of(self._kafka.admin(), names.values(), 10)
        if missing := [name for name in names.values() if name not in found]:
            raise Retryable(f"the topic {missing[0]} is missing: run `headrace topics apply`")
        return [(topic, p) for topic, name in names.items() for p in found[name]]

    def _lose_position(self, place: Place) -> None:
        log.warning("%s: %s/%d does not hold the position; it is read from its earliest record", self._name, *place)
        with self._read:
            self._positions = {p: at for p, at in self._positions.items() if p != place}
        self.catching_up.begin_again()
        self.position_lost(place)

    def _apply_messages(self, messages: Sequence[Message]) -> None:
        records: list[Record] = []
        positions: dict[Place, int] = {}
        for message in messages:
            error = message.error()
            if error is None:
                record = self._kafka.record(message)
                records.append(record)
                positions[record.topic, record.partition] = record.offset + 1
                continue
            place, offset = place_of(self._kafka, message)
            if error.code() == KafkaError._PARTITION_EOF:  # the last records may be transaction markers
                positions[place] = max(positions.get(place, self._positions.get(place, 0)), offset)
            elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                self._lost[place] = positions.pop(place, self._positions.get(place, offset))
                self._lose_position(place)
                self.restart()  # librdkafka has stopped fetching the partition, and refuses to seek in it
            else:
                self.partition_failed(error)
        self._advance(records, positions)

    def _advance(self, records: Sequence[Record], positions: Mapping[Place, int]) -> None:
        changed = {place: at for place, at in positions.items() if self._positions.get(place) != at}
        if not changed:
            return
        self.apply_batch(records, changed)
        with self._read:
            self._positions = {**self._positions, **changed}
            self._read.notify_all()


def _gap(position: int, first: int, end: int) -> str:
    """What a reader at that position misses in a log that holds the offsets from `first` to `end`."""
    if position < first:
        return f"the offsets {position} to {first - 1} were deleted before they were read"
    return f"it ends at {end} and had been read to {position}: it was made anew, or has lost records"
