"""Notices that topics have other partitions than their reader has assigned, by `topics grow` or by hand.

For readers outside a group, which assign partitions themselves: every `Follower`. A group's consumers learn of new
partitions by themselves. Asks Kafka every few seconds and never waits for the answer, because a follower's turns also
keep time; a question that Kafka does not answer, or answers with an error, is asked again.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaException, TopicCollection

from headrace.contract.records import Place
from headrace.kafka.client import Kafka

LOOK_EVERY_S = 5.0
_ANSWER_S = 5.0


class PartitionWatch:
    """Used by one thread: `begin` with what is assigned, then `changed` once a turn."""

    def __init__(self, kafka: Kafka, topics: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        """`topics` come without the installation's prefix."""
        self._kafka, self._topics, self._clock = kafka, topics, clock
        self._known: Collection[Place] = ()
        self._asked: Mapping[str, Future[Any]] = {}  # topic -> its description; empty between two looks
        self._asked_at = clock()

    def begin(self, places: Collection[Place]) -> None:
        """These are the partitions that the reader has assigned; the first look comes a few seconds later."""
        self._known, self._asked, self._asked_at = frozenset(places), {}, self._clock()

    def look_soon(self) -> None:
        """Has the next turn ask; safe from any thread."""
        self._asked_at = -LOOK_EVERY_S

    def changed(self) -> bool:
        """Whether the last answer names other partitions than `begin` was given. Never blocks, and never raises."""
        if self._asked and all(f.done() for f in self._asked.values()):
            found = self._take_answer()
            return found is not None and found != self._known
        if not self._asked and self._clock() - self._asked_at >= LOOK_EVERY_S:
            self._ask()
        return False

    def _ask(self) -> None:
        self._asked_at = self._clock()
        names = {self._kafka.topic(t): t for t in self._topics}
        answers = self._kafka.admin().describe_topics(TopicCollection(list(names)), request_timeout=_ANSWER_S)
        self._asked = {names[name]: answer for name, answer in answers.items()}

    def _take_answer(self) -> frozenset[Place] | None:
        """All partitions; None when one topic's are not known."""
        answers, self._asked = self._asked, {}
        try:
            return frozenset((topic, p.id) for topic, f in answers.items() for p in f.result().partitions)
        except KafkaException:
            return None  # Kafka is away, or a topic is: the reader's own requests tell that in words
