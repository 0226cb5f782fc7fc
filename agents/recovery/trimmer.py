"""Trims the task topics and the control log: deletes records that nobody needs any more. Queued work never expires, and
the log of finished work does not grow for ever.

Used by the reaper for the journal partitions that it owns, so that each partition has one trimmer. Only those records
are deleted that both groups have committed, that no live claim holds, and that are older than `keep_s`, which covers
the window of rule D. Commands on `tasks.control` go once the tasks of their time are settled (`trim_age_s`), since a
task may wait in its queue for longer than `keep_s`. Retryable or KafkaException when Kafka does not answer; a trim that
was cut short is made again.
"""

import time
from collections.abc import Callable, Iterable, Mapping

from headrace.contract.records import Place
from headrace.kafka.client import Kafka
from headrace.kafka.groups import INTAKE_GROUP, RECEIVER_GROUP
from headrace.kafka.metadata import partitions_of
from headrace.kafka.reading import ANSWER_S, committed_offsets, end_offsets, first_offsets
from headrace.kafka.trimming import delete_records, young_offsets
from headrace.process.failpoints import Failpoint, no_failpoint

from ..intake.consumer import TOPICS
from ..monitoring.protocol_metrics import ProtocolMetrics
from .journal_state import LiveClaim

CONTROL = "tasks.control"
EVERY_S = 60.0
KEEP_COMMANDS = 1000  # the last ones of each partition stay, whatever the clocks of the brokers say
_DOUBLINGS = 8  # of `keep_s`: beside a task that is older than half of the last one, all commands stay


class Trimmer:
    """Belongs to one thread."""

    def __init__(
        self,
        kafka: Kafka,
        keep_s: float,
        *,
        every_s: float = EVERY_S,
        keep_commands: int = KEEP_COMMANDS,
        failpoint: Failpoint = no_failpoint,
        metrics: ProtocolMetrics | None = None,
    ) -> None:
        """Records younger than `keep_s` seconds stay, and so do the newest `keep_commands` of a partition of
        `tasks.control`; a partition is looked at every `every_s` seconds."""
        self._keep_commands = keep_commands
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
        live = list(live)
        settled = trim_offsets(ends, live, {})
        places = [place for place in places if ends[place] > 0]  # one of them may not be there yet (topics grow)
        ends = {place: ends[place] for place in places}
        young = young_offsets(self._kafka, readers[0], places, self._keep_s)
        before = trim_offsets(ends, live, young) | self._control(partition, settled)
        first = first_offsets(self._kafka, self._kafka.admin(), before)
        to_trim = {place: at for place, at in before.items() if at > first[place]}
        if to_trim:
            self._failpoint("trimmer before deleting")
            delete_records(self._kafka, self._kafka.admin(), to_trim)
            self._metrics.trimmed_records.inc(sum(at - first[place] for place, at in to_trim.items()))

    def _control(self, partition: int, settled: Mapping[Place, int]) -> dict[Place, int]:
        """The offset below which commands may go; empty when all stay. `settled`: as for the task topics."""
        control, reader = (CONTROL, partition), self._kafka.group_reader(INTAKE_GROUP)
        found = self._queue_of(partition)
        ends = end_offsets(self._kafka, self._kafka.admin(), [*found, *([control] if found else [])])
        newest = ends.get(control, 0) - self._keep_commands
        if newest <= 0:
            return {}
        # The other partitions have trimmers of their own, which know their claims: what is settled there is gone.
        begins = first_offsets(self._kafka, self._kafka.admin(), found) | {p: settled[p] for p in found if p in settled}

        def is_settled(age_s: float) -> bool:
            young = young_offsets(self._kafka, reader, found, age_s)
            return all(young.get(place, ends[place]) <= begins[place] for place in found)

        age_s = trim_age_s(self._keep_s, is_settled)
        if age_s is None:
            return {}
        return {control: min(newest, young_offsets(self._kafka, reader, [control], age_s).get(control, newest))}

    def _queue_of(self, partition: int) -> list[Place]:
        """Where the tasks may be whose commands are in that partition of the control log; empty when it has no such.

        The queue may have several times as many partitions as the other topics (docs/design/0038).
        """
        names = {topic: self._kafka.topic(topic) for topic in (*TOPICS, CONTROL)}
        found = partitions_of(self._kafka.admin(), names.values(), ANSWER_S)
        count = len(found.get(names[CONTROL], ()))
        if partition >= count:
            return []
        return [(t, p) for t in TOPICS for p in found.get(names[t], ()) if p % count == partition]


def trim_age_s(keep_s: float, is_settled: Callable[[float], bool]) -> float | None:
    """The age in seconds from which on a command is needed by nobody; None when that is not known.

    `is_settled(age)`: whether all task records older than that many seconds are settled. It is asked for half of the
    command's age: what was submitted before the command is settled then, and so is what was sent again soon after it.
    """
    ages = (keep_s * 2**n for n in range(_DOUBLINGS))
    return next((age for age in ages if is_settled(age / 2)), None)


def trim_offsets(ends: Mapping[Place, int], live: Iterable[LiveClaim], young: Mapping[Place, int]) -> dict[Place, int]:
    """Per place the offset below which every record may go: committed (`ends`), not claimed, and not `young`."""
    found = {place: max(0, min(end, young.get(place, end))) for place, end in ends.items()}
    for claim in live:
        for source in claim.sources:
            place = (source.topic, source.partition)
            if place in found:
                found[place] = min(found[place], source.offset)
    return found
