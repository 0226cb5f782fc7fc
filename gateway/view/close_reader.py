"""Reads the partitions that somebody waits for, ahead of the projector, which reads all of them in batches.

Both fold into the same view, and what one has read the other passes over, so this reader is needed for speed alone:
when it fails, listeners learn everything a second later. It has a consumer and a thread of its own. librdkafka
asks for the next records as soon as the last have come, and a partition that is added meanwhile must wait for that
answer: hence two readers. One answers soon and takes what has just got attention; the other may wait long, and takes
over what has had it for a second (docs/design/0041-a-gateways-hot-routes.md).
"""

import logging
import math
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from headrace.contract.records import Place, Record
from headrace.errors import Retryable
from headrace.kafka.client import Kafka
from headrace.kafka.reading import ANSWER_S, place_of
from headrace.process.throttled_log import log_throttled

from .attention import Attention
from .projector import MAX_BATCH, Projector

log = logging.getLogger(__name__)

_RETRY_S = 0.5
# A reader that has not known a topic before takes half a second to find its leaders. So it learns all at its start, and
# forgets none; a leader that has changed is found by the error that the old one answers with.
_KNOWN_LEADERS = {"metadata.max.age.ms": 86_400_000}
_LOOK_S = 0.1  # how soon a reader without partitions finds one that has rested, or that the view has come to know
_REST_S = 1.0  # before a partition with an error is tried again: the projector sees to it


@dataclass(frozen=True, slots=True)
class Pace:
    """Which partitions a reader takes, by how long they have had attention, and how it asks for their records."""

    from_s: float
    to_s: float
    wait_ms: int  # how long Kafka may wait for records before it answers
    poll_s: float  # how soon the thread notices that attention has changed


QUICK = Pace(0.0, 2.0, 10, 0.005)
PATIENT = Pace(1.0, math.inf, 500, 0.1)


class CloseReader:
    """One reader. `start` it, then `close` it."""

    def __init__(self, kafka: Kafka, projector: Projector, attention: Attention, pace: Pace) -> None:
        self._kafka, self._projector, self._attention, self._pace = kafka, projector, attention, pace
        self._closing = threading.Event()
        self._assigned: set[Place] = set()
        self._epoch = -1
        self._resting: dict[Place, float] = {}  # until when
        self._thread = threading.Thread(target=self._run, name="close reader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._attention.wake()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._read()
            except (KafkaException, Retryable, sqlite3.Error) as e:
                log_throttled("close reader", "listeners learn of events later: %s", e)
            except Exception:
                log.exception("a close reader has failed, and retries")
            self._closing.wait(_RETRY_S)

    def _read(self) -> None:
        consumer = self._kafka.consumer(None, **{"fetch.wait.max.ms": self._pace.wait_ms, **_KNOWN_LEADERS})
        self._assigned, self._epoch = set(), -1
        try:
            consumer.list_topics(timeout=ANSWER_S)
            while not self._closing.is_set():
                self._follow_attention(consumer)
                if not self._assigned:
                    self._attention.wait(self._closing.is_set, max(self._pace.from_s, _LOOK_S))
                elif (message := consumer.poll(self._pace.poll_s)) is not None:
                    self._fold(consumer, [message, *consumer.consume(MAX_BATCH, 0)])
        finally:
            consumer.close()

    def _follow_attention(self, consumer: Consumer) -> None:
        """Assigns what this reader is to read from now on, each place from where the view has come to."""
        epoch, positions = self._projector.reading()
        wanted = self._attention.places(self._pace.from_s, self._pace.to_s)
        now = time.monotonic()
        wanted = {p for p in wanted if p in positions and self._resting.get(p, 0.0) <= now}
        if epoch != self._epoch:
            self._unassign(consumer, self._assigned)
            self._epoch = epoch
        if gone := self._assigned - wanted:
            self._unassign(consumer, gone)
        if come := wanted - self._assigned:
            consumer.incremental_assign([self._partition(p, positions[p]) for p in come])
            self._assigned |= come

    def _unassign(self, consumer: Consumer, places: Iterable[Place]) -> None:
        if leaving := list(places):
            consumer.incremental_unassign([self._partition(p) for p in leaving])
            self._assigned = self._assigned.difference(leaving)

    def _partition(self, place: Place, offset: int = 0) -> TopicPartition:
        return TopicPartition(self._kafka.topic(place[0]), place[1], offset)

    def _fold(self, consumer: Consumer, messages: Sequence[Message]) -> None:
        records: list[Record] = []
        positions: dict[Place, int] = {}
        for message in messages:
            place, offset = place_of(self._kafka, message)
            error = message.error()
            if place not in self._assigned:
                continue  # it came before the partition was given up
            if error is None:
                records.append(self._kafka.record(message))
                positions[place] = offset + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                positions[place] = max(offset, positions.get(place, 0))
            else:
                self._resting[place] = time.monotonic() + _REST_S
                self._unassign(consumer, [place])
        self._projector.fold(records, positions, self._epoch)
