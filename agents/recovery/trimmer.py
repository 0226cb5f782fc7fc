"""Trims the task topics: deletes records that nobody needs any more. Queued work never expires, and the log of finished
work does not grow for ever.

Used by the reaper for the journal partitions that it owns, so that each partition has one trimmer. Only those records
are deleted that both groups have committed, that no live claim holds, and that are older than `keep_s`, which covers
the window of rule D. Retryable or KafkaException when Kafka does not answer; a trim that was cut short is made again.
"""

import time
from collections.abc import Callable, Iterable, Mapping

from headrace.contract.records import Place
from headrace.kafka.client import Kafka
from headrace.kafka.groups import INTAKE_GROUP, RECEIVER_GROUP
from headrace.kafka.reading import committed_offsets, first_offsets
from headrace.kafka.trimming import delete_records, young_offsets
from headrace.process.failpoints import Failpoint, no_failpoint

from ..intake.consumer import TOPICS
from ..monitoring.protocol_metrics import ProtocolMetrics
from .journal_state import LiveClaim

EVERY_S = 60.0


class Trimmer:
    """Belongs to one thread."""

    def __init__(
        self,
        kafka: Kafka,
        keep_s: float,
        *,
        every_s: float = EVERY_S,
        failpoint: Failpoint = no_failpoint,
        metrics: ProtocolMetrics | None = None,
    ) -> None:
        """Records younger than `keep_s` seconds stay; a partition is looked at every `every_s` seconds."""
        self._kafka, self._keep_s, self._every_s, self._failpoint = kafka, keep_s, every_s, failpoint
        self._metrics = metrics or ProtocolMetrics()
        self._trimmed_at: dict[int, float] = {}

    def next_due(self, partitions: Iterable[int]) -> int | None:
        """The partition that has waited longest, if it is time for it."""
        waited = {p: self._trimmed_at.get(p, float("-inf")) for p in partitions}
        longest = min(waited, key=lambda p: waited[p], default=None)
        if longest is None or time.monotonic() - waited[longest] < self._every_s:
            return None
        return longest

    def trim(self, partition: int, read_live_claims: Callable[[], Iterable[LiveClaim] | None]) -> None:
        """`read_live_claims` reads the journal's partition to its end and returns its live claims, or None when it
        could not. It is called after the committed offsets are read: a claim is in the journal before its commit."""
        self._trimmed_at[partition] = time.monotonic()
        places = [(topic, partition) for topic in TOPICS]
        readers = [self._kafka.group_reader(group) for group in (INTAKE_GROUP, RECEIVER_GROUP)]
        by_group = [committed_offsets(self._kafka, reader, places) for reader in readers]
        self._failpoint("trimmer between committed offset and journal")
        live = read_live_claims()
        if live is None:
            return
        ends = {place: min(offsets[place] for offsets in by_group) for place in places}
        places = [place for place in places if ends[place] > 0]  # one of them may not be there yet (topics grow)
        ends = {place: ends[place] for place in places}
        young = young_offsets(self._kafka, readers[0], places, self._keep_s)
        before = trim_offsets(ends, live, young)
        first = first_offsets(self._kafka, self._kafka.admin(), places)
        to_trim = {place: at for place, at in before.items() if at > first[place]}
        if to_trim:
            self._failpoint("trimmer before deleting")
            delete_records(self._kafka, self._kafka.admin(), to_trim)
            self._metrics.trimmed_records.inc(sum(at - first[place] for place, at in to_trim.items()))


def trim_offsets(ends: Mapping[Place, int], live: Iterable[LiveClaim], young: Mapping[Place, int]) -> dict[Place, int]:
    """Per place the offset below which every record may go: committed (`ends`), not claimed, and not `young`."""
    found = {place: max(0, min(end, young.get(place, end))) for place, end in ends.items()}
    for claim in live:
        for source in claim.sources:
            place = (source.topic, source.partition)
            if place in found:
                found[place] = min(found[place], source.offset)
    return found
