"""The windows of rule D, read from the log when this node gets partitions.

A partition that a growth has added takes ids over from older ones. As long as all its records are younger than the
window, the windows of those partitions are read too: a repeat may have its first record there (docs/design/0038).

Used by `agents.intake.consumer`, in the intake's thread. Retryable when Kafka does not answer.
"""

import re
import time
from collections.abc import Mapping, Sequence

from confluent_kafka import Consumer, KafkaException, Message

from headrace.contract.records import Place
from headrace.errors import Retryable
from headrace.kafka.client import Kafka
from headrace.kafka.log_time import newest_ms
from headrace.kafka.partition_counts import PartitionCounts
from headrace.kafka.reading import end_offsets, error_text, first_offsets, offsets_at, place_of, read_ranges

from .admission import decode_task
from .deduplication import WINDOW_RECORDS, WINDOW_S, DedupWindow

_CANONICAL = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
# Read back whatever the timestamps say: a broker's clock that was behind makes the records of this minute look old.
_LEAST_RECORDS = 1000


class DedupWindows:
    """The windows of all partitions that this node has owned."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._windows: dict[Place, DedupWindow] = {}

    def window_of(self, place: Place) -> DedupWindow:
        return self._windows[place]

    def read_back(
        self,
        consumer: Consumer,
        committed: Mapping[Place, int],
        first: Mapping[Place, int],
        counts: PartitionCounts,
    ) -> None:
        """Reads the records in the window before each committed offset, except those that are known already.

        `committed` has the partitions to read, and `first` their first offsets in the log.
        """
        young = self._young_offsets(consumer, [p for p, at in committed.items() if at > first[p]])
        ranges, windows = {}, {}
        for place, end in committed.items():
            begin = _begin(young.get(place, end), first[place], end)
            kept = self._windows.get(place)
            if kept is not None and kept.end is not None and begin <= kept.end <= end:
                begin = kept.end
            else:
                kept = DedupWindow()
            windows[place], ranges[place] = kept, (begin, end)

        heirs = {place for place, at in committed.items() if first[place] == 0 == young.get(place, at)}
        self._read_parents(consumer, {place: windows[place] for place in heirs}, counts)

        def add_message(message: Message) -> None:
            place, offset = place_of(self._kafka, message)
            if (identity := self._identity(place, message)) is not None:
                windows[place].add_task(*identity, offset)

        read_ranges(self._kafka, ranges, add_message)
        for place, end in committed.items():
            windows[place].end = end
        self._windows |= windows

    def _read_parents(self, consumer: Consumer, heirs: Mapping[Place, DedupWindow], counts: PartitionCounts) -> None:
        """Adds to the windows of `heirs` what their ids have in older partitions, up to the present ends of those.

        Only the newer partition looks into the older one: if both did, each could drop its record for the other's.
        """
        parents = sorted({parent for heir in heirs for parent in counts.parents(heir)})
        if not parents:
            return
        first = first_offsets(self._kafka, self._kafka.admin(), parents)
        ends = end_offsets(self._kafka, self._kafka.admin(), parents)
        young = self._young_offsets(consumer, parents)
        ranges = {p: (_begin(young.get(p, ends[p]), first[p], ends[p]), ends[p]) for p in parents}

        def add_message(message: Message) -> None:
            (topic, partition), _ = place_of(self._kafka, message)
            identity = self._identity((topic, partition), message)
            if identity is None:
                return
            for place in counts.places_of(identity[0], [topic]):
                if place in heirs and place[1] != partition:
                    heirs[place].add_elsewhere(*identity)

        read_ranges(self._kafka, ranges, add_message)

    def _young_offsets(self, consumer: Consumer, places: Sequence[Place]) -> dict[Place, int]:
        """Where the last hour begins in each place: by the earlier of our clock and the place's newest record.

        A place that nothing can be said of is left out: nothing has come there in that hour.
        """
        now_ms, newest = int(time.time() * 1000), newest_ms(self._kafka, places)
        since = {(t, p): min(now_ms, newest.get((t, p), now_ms)) - int(WINDOW_S * 1000) for t, p in places}
        try:
            return offsets_at(self._kafka, consumer, since)
        except KafkaException as e:
            raise Retryable(f"the start of the window of repeats is not known: {error_text(e)}") from None

    def _identity(self, place: Place, message: Message) -> tuple[str, int] | None:
        """The (id, attempt) of a record; None with forged headers.

        The key alone decides for a record of `tasks.normal` with a task id; without decoding it costs a quarter.
        """
        key = message.key()
        if place[0] == "tasks.normal" and isinstance(key, bytes) and _CANONICAL.match(key):
            return key.decode(), 1
        task, header_error = decode_task(self._kafka.record(message))
        return (task.id, task.attempt) if header_error is None else None


def _begin(young: int, first: int, end: int) -> int:
    """Where the window before `end` begins; `young`: where the last hour does."""
    return max(first, end - WINDOW_RECORDS, min(young, end - _LEAST_RECORDS))
