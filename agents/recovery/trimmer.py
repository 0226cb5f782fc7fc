"""Trims the task topics: DeleteRecords behind what nobody needs any more. Queued work never expires, and the log of
what has been done does not grow for ever.

Used by the reaper for the partitions whose journal it has, so each partition has one trimmer. Trimmed is only what both
groups have committed, what no living claim is on, and what is older than `keep_s`, which covers rule D's window.
Retryable or KafkaException when Kafka does not answer; a trimming cut short anywhere is made again.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping

from confluent_kafka import TopicPartition

from agents.intake.consumer import TOPICS
from agents.recovery.journal_state import Held
from headrace.contract.records import Place
from headrace.errors import Retryable
from headrace.kafka.client import Kafka
from headrace.kafka.groups import INTAKE_GROUP, RECEIVER_GROUP
from headrace.kafka.reading import ANSWER_S, committed, offsets
from headrace.process.failpoints import Failpoint, no_failpoint

log = logging.getLogger(__name__)

EVERY_S = 60.0


class Trimmer:
    """Belongs to one thread. `at` names the places where fault tests step in."""

    def __init__(
        self, kafka: Kafka, keep_s: float, every_s: float = EVERY_S, failpoint: Failpoint = no_failpoint
    ) -> None:
        self._kafka, self._keep_s, self._every_s, self._failpoint = kafka, keep_s, every_s, failpoint
        self._admin = kafka.admin()
        self._groups = [kafka.consumer(group) for group in (INTAKE_GROUP, RECEIVER_GROUP)]  # they ask, and never join
        self._trimmed_at: dict[int, float] = {}
        self.trimmed = 0  # records

    def close(self) -> None:
        for group in self._groups:
            group.close()

    def due(self, partitions: Iterable[int]) -> int | None:
        """The partition that has waited longest, if it is time for it."""
        waited = {p: self._trimmed_at.get(p, float("-inf")) for p in partitions}
        longest = min(waited, key=lambda p: waited[p], default=None)
        if longest is None or time.monotonic() - waited[longest] < self._every_s:
            return None
        return longest

    def trim(self, partition: int, live: Callable[[], Iterable[Held] | None]) -> None:
        """`live` reads the journal of the partition to its end and gives the claims that live then, or None when it
        could not. Asked after the committed offsets: a claim is in the journal before its commit."""
        self._trimmed_at[partition] = time.monotonic()
        places = [(topic, partition) for topic in TOPICS]
        taken = [committed(self._kafka, group, places) for group in self._groups]
        self._failpoint("trimmer between committed offset and journal")
        held = live()
        if held is None:
            return
        ends = {place: min(offsets[place] for offsets in taken) for place in places}
        before = bounds(ends, held, self._young(places))
        first = offsets(self._kafka, self._admin, places, first=True)
        wanted = {place: at for place, at in before.items() if at > first[place]}
        if wanted:
            self._failpoint("trimmer before deleting")
            self._delete(wanted)
            self.trimmed += sum(at - first[place] for place, at in wanted.items())

    def _young(self, places: Iterable[Place]) -> dict[Place, int]:
        """Where the records begin that are younger than `keep_s`; nothing for a place that has none."""
        since_ms = int((time.time() - self._keep_s) * 1000)
        asked = [TopicPartition(self._kafka.topic(t), p, since_ms) for t, p in places]
        found = self._groups[0].offsets_for_times(asked, timeout=ANSWER_S)
        return {(self._kafka.unprefixed(at.topic), at.partition): at.offset for at in found if at.offset >= 0}

    def _delete(self, before: Mapping[Place, int]) -> None:
        asked = [TopicPartition(self._kafka.topic(t), p, at) for (t, p), at in before.items()]
        for at, done in self._admin.delete_records(asked, request_timeout=ANSWER_S).items():
            try:
                done.result(2 * ANSWER_S)
            except TimeoutError:
                raise Retryable(f"Kafka does not say whether {at.topic}/{at.partition} is trimmed") from None
            log.info("%s/%d is trimmed before offset %d", at.topic, at.partition, at.offset)


def bounds(ends: Mapping[Place, int], live: Iterable[Held], young: Mapping[Place, int]) -> dict[Place, int]:
    """Per place the offset before which nothing is needed: below what is committed, claimed, and young."""
    found = {place: max(0, min(end, young.get(place, end))) for place, end in ends.items()}
    for held in live:
        for source in held.sources:
            place = (source.topic, source.partition)
            if place in found:
                found[place] = min(found[place], source.offset)
    return found
