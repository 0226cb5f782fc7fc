"""A thread that follows whole topics from a known offset on, without a group, and knows how far it has read.

Base of the control log and of the view of nodes and kinds. Goes on by itself when Kafka comes back; a topic that was
made anew is read from its beginning, after `restarted` has been called.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from headrace.contract.records import Place, Record
from headrace.errors import Retryable, Undecodable
from headrace.kafka.client import Kafka, log_throttled
from headrace.kafka.metadata import partitions_of
from headrace.kafka.reading import forget_leaders, offsets, place_of, words_of
from headrace.process.health import Watchdog

log = logging.getLogger(__name__)

_TURN_S = 0.1
_BATCH = 500


class Follower:
    """Subclasses give `handle`, and may keep their state in `flush`, called with the positions that it stands for."""

    def __init__(self, kafka: Kafka, name: str, topics: Sequence[str]) -> None:
        self._kafka, self._name, self._topics = kafka, name, topics
        self._admin = kafka.admin()
        self._read: dict[Place, int] = {}
        self._progress = threading.Condition()
        self._closing = threading.Event()
        self._watchdog = Watchdog(name)
        self._places: tuple[Place, ...] = ()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.passed_over: Callable[[str], None] = lambda _: None  # told of the topic of each undecodable record

    def handle(self, record: Record) -> None:
        """Takes in one record; Undecodable is counted and passed over."""
        raise NotImplementedError

    def flush(self, positions: Mapping[Place, int]) -> None:
        """Called after each batch, before its positions count as read."""

    def turn(self) -> None:
        """Called several times a second."""

    def begin(self) -> Mapping[Place, int]:
        """Where to begin; a place that is not named is read from its beginning."""
        return {}

    def restarted(self, place: Place) -> None:
        """The log of that place is another one than before."""

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join(10)

    def check(self) -> str | None:
        """For the node's health."""
        return self._watchdog.check()

    def ask_ends(self) -> "dict[Place, Future[Any]]":
        """Asks Kafka how long the topics are now; for `wait_read`."""
        spec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = {TopicPartition(self._kafka.topic(t), p): spec for t, p in self._places}
        if not asked:
            return {}
        answers = self._admin.list_offsets(asked, request_timeout=10)
        return {(self._kafka.unprefixed(at.topic), at.partition): f for at, f in answers.items()}

    def wait_read(self, ends: "Mapping[Place, Future[Any]]", timeout_s: float) -> bool:
        """Whether everything that was there at `ask_ends` has been read, within that time."""
        if not ends:
            return False
        deadline = time.monotonic() + timeout_s
        try:
            wanted = {place: f.result(max(0.0, deadline - time.monotonic())).offset for place, f in ends.items()}
        except (KafkaException, TimeoutError):
            forget_leaders(self._admin)
            return False
        with self._progress:
            return self._progress.wait_for(
                lambda: all(self._read.get(place, -1) >= end for place, end in wanted.items()),
                max(0.0, deadline - time.monotonic()),
            )

    def wait_caught_up(self, timeout_s: float) -> bool:
        """Whether all that is there now has been read, within that time."""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            with self._progress:
                if not self._progress.wait_for(lambda: bool(self._places), left_s):
                    return False
            if self.wait_read(self.ask_ends(), deadline - time.monotonic()):
                return True
        return False

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._follow()
            except (KafkaException, Retryable) as e:
                words = words_of(e) if isinstance(e, KafkaException) else str(e)
                log_throttled(self._name, "%s cannot read: %s", self._name, words)
                self._closing.wait(0.5)
            except Exception:
                log.exception("%s has failed and begins anew", self._name)
                self._closing.wait(1.0)

    def _follow(self) -> None:
        consumer = self._kafka.consumer()
        try:
            found = partitions_of(self._admin, map(self._kafka.topic, self._topics), 10)
            places = [(t, p) for t in self._topics for p in found[self._kafka.topic(t)]]
            ends = offsets(self._kafka, self._admin, places)
            kept = dict(self.begin())
            for place in [p for p, at in kept.items() if at > ends.get(p, at)]:
                self._begins_anew(place)
                del kept[place]
            # Asked for here: librdkafka takes half a second to find out where a log begins.
            first = offsets(self._kafka, self._admin, [place for place in places if place not in kept], first=True)
            starts = {**first, **kept}
            # What is empty has been read: a fetch that finds nothing would say so half a second later.
            empty = {place: end for place, end in ends.items() if starts[place] == end}
            with self._progress:
                self._read = {**kept, **empty}
                self._places = tuple(places)
                self._progress.notify_all()
            consumer.assign([TopicPartition(self._kafka.topic(t), p, starts[t, p]) for t, p in places])
            while not self._closing.is_set():
                self._watchdog.beat()
                self.turn()
                message = consumer.poll(_TURN_S)
                if message is not None:  # a tombstone's message is falsy
                    self._take([message, *consumer.consume(_BATCH, 0)], consumer)
        except KeyError as e:
            log_throttled(self._name, "%s waits for the topic %s: run `headrace topics apply`", self._name, e.args[0])
            self._closing.wait(0.5)
        finally:
            consumer.close()

    def _begins_anew(self, place: Place) -> None:
        log.warning("%s: the log of %s/%d is another one now, and is read from its beginning", self._name, *place)
        self.restarted(place)

    def _take(self, messages: Sequence[Message], consumer: Consumer) -> None:
        positions = dict(self._read)
        for message in messages:
            error = message.error()
            place, offset = place_of(self._kafka, message)
            if error is None:
                try:
                    self.handle(self._kafka.record(message))
                except Undecodable as e:
                    self.passed_over(place[0])
                    log_throttled(f"{self._name} undecodable", "%s passes a record over: %s", place[0], e.detail)
                positions[place] = offset + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                positions[place] = max(positions.get(place, 0), offset)
            elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                self._begins_anew(place)
                positions.pop(place, None)
                consumer.seek(TopicPartition(self._kafka.topic(place[0]), place[1], OFFSET_BEGINNING))
        self.flush(positions)
        with self._progress:
            self._read = positions
            self._progress.notify_all()
