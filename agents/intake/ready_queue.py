"""The ready queue: records that the intake has pulled and not yet claimed, and which of them comes next (I5).

Pure: no Kafka, and no clock but the given one. Records of a partition leave in the log's order, because a commit is one
offset of a partition. Across partitions the order is: partitions of `tasks.high` with a replay in them, then the rest
of `tasks.high`, then `tasks.normal`, each by time. A normal record waits a moment while another partition is known to
hold records that have not arrived: otherwise a backlog of many partitions would not start in its order.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from headrace.contract.records import Place, Record
from headrace.contract.task import Task

from .admission import Decision

PAUSE_RECORDS, PAUSE_BYTES = 512, 512 * 1024  # fetching of a partition pauses when so much of it is queued,
RESUME_RECORDS, RESUME_BYTES = 256, 256 * 1024  # until so little is left
AHEAD_MS = 60_000  # a timestamp further ahead of this machine's clock is a wrong one, and counts as now
ARRIVAL_WAIT_S = 0.15  # for records known to exist; a partition whose broker is away must not hold up the others


@dataclass(slots=True, eq=False)
class Pulled:
    """A queued record."""

    record: Record
    task: Task
    header_error: str | None = None  # what is wrong with its headers, if they are forged
    decision: Decision | None = None  # the admission's, once asked
    came_ms: int = field(default_factory=lambda: int(time.time() * 1000))

    @property
    def place(self) -> Place:
        return self.record.topic, self.record.partition

    @property
    def order_ms(self) -> int:
        """The record's time among those of other partitions, whose brokers have clocks of their own.

        A broker that is a day ahead would otherwise have its tasks wait until no other task is left.
        """
        at_ms = self.record.timestamp_ms
        return at_ms if at_ms <= self.came_ms + AHEAD_MS else self.came_ms

    @property
    def is_replay(self) -> bool:
        return self.task.attempt > 1


@dataclass(slots=True)
class _Partition:
    records: deque[Pulled] = field(default_factory=deque)
    size: int = 0  # bytes of the values
    replays: int = 0
    paused: bool = False
    next_offset: int = 0  # of the record that Kafka will give next
    known_end: int = 0  # the partition's end, as the broker last reported it
    settled: int = 0  # the offset that is committed
    waiting_since: float | None = None  # set while it is empty although records exist
    held_until: float = 0.0  # its head does not leave before


class ReadyQueue:
    """The queued records of all owned partitions."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._partitions: dict[Place, _Partition] = {}

    def __len__(self) -> int:
        return sum(len(p.records) for p in self._partitions.values())

    def assign(self, starts: dict[Place, tuple[int, int]]) -> None:
        """Starts afresh with the owned partitions: place -> (offset of its next record, known end)."""
        self._partitions = {
            place: _Partition(next_offset=at, known_end=end, settled=at) for place, (at, end) in starts.items()
        }

    def clear(self) -> list[Place]:
        """For a rebalance: drops all records and partitions. Returns those that were paused."""
        paused = [place for place, p in self._partitions.items() if p.paused]
        self._partitions = {}
        return paused

    def places(self) -> list[Place]:
        return list(self._partitions)

    def owns(self, place: Place) -> bool:
        return place in self._partitions

    def add_record(self, pulled: Pulled, known_end: int) -> None:
        """Queues the next record of an owned partition; a record that comes a second time is ignored."""
        p = self._partitions.get(pulled.place)
        if p is None or pulled.record.offset < p.next_offset:
            return
        p.records.append(pulled)
        p.size += len(pulled.record.value or b"")
        p.replays += pulled.is_replay
        p.next_offset = pulled.record.offset + 1
        p.known_end = max(known_end, p.next_offset)
        p.waiting_since = None

    def mark_end(self, place: Place, offset: int) -> None:
        """The broker has reported that the partition ends at `offset`."""
        if p := self._partitions.get(place):
            p.next_offset = max(p.next_offset, offset)
            p.known_end = p.next_offset
            p.waiting_since = None

    def rewind(self, place: Place, offset: int) -> None:
        """Drops a partition's records; it goes on at the earlier `offset`."""
        if p := self._partitions.get(place):
            self._partitions[place] = _Partition(
                paused=p.paused, next_offset=offset, known_end=p.known_end, settled=p.settled
            )

    def uncommitted_ends(self) -> dict[Place, int]:
        """Where partitions without queued records have been read to, if that is beyond what is committed.

        Kafka delivers neither the markers of transactions nor the records of aborted ones: nothing has to be done for
        them, and their offsets are to be committed with what came before.
        """
        return {k: p.next_offset for k, p in self._partitions.items() if not p.records and p.next_offset > p.settled}

    def mark_committed(self, ends: Mapping[Place, int]) -> None:
        """These offsets are committed."""
        for place, end in ends.items():
            if p := self._partitions.get(place):
                p.settled = end

    def to_pause(self) -> list[Place]:
        """The partitions that have become full; they count as paused from now on."""
        full = [
            (k, p)
            for k, p in self._partitions.items()
            if not p.paused and (len(p.records) >= PAUSE_RECORDS or p.size >= PAUSE_BYTES)
        ]
        for _, p in full:
            p.paused = True
        return [place for place, _ in full]

    def to_resume(self) -> list[Place]:
        """The partitions that have room again; they no longer count as paused."""
        empty = [
            (k, p)
            for k, p in self._partitions.items()
            if p.paused and len(p.records) <= RESUME_RECORDS and p.size <= RESUME_BYTES
        ]
        for _, p in empty:
            p.paused = False
        return [place for place, _ in empty]

    def heads(self) -> Iterable[Pulled]:
        """The first record of each partition that is not held."""
        now = self._clock()
        return [p.records[0] for p in self._partitions.values() if p.records and p.held_until <= now]

    def head(self, place: Place) -> Pulled | None:
        p = self._partitions.get(place)
        return p.records[0] if p is not None and p.records else None

    def first_offsets(self) -> dict[Place, int]:
        """The offset of each partition's first record."""
        return {place: p.records[0].record.offset for place, p in self._partitions.items() if p.records}

    def next_record(self) -> Pulled | None:
        """The record that comes next, not removed; None when none is queued, or while an earlier one may yet arrive."""
        best: tuple[tuple[int, int, int], Pulled] | None = None
        now = self._clock()
        for p in self._partitions.values():
            if p.records and p.held_until <= now:
                head = p.records[0]
                rank = 2 if head.record.topic != "tasks.high" else 0 if p.replays else 1
                order = (rank, head.order_ms, head.record.offset)
                if best is None or order < best[0]:
                    best = order, head
        if best is None or (self._awaits_records() and best[0][0] > 0):
            return None
        return best[1]

    def hold_partition(self, place: Place, seconds: float) -> None:
        """No record of that partition leaves for so many seconds."""
        self._partitions[place].held_until = self._clock() + seconds

    def remove(self, pulled: Pulled) -> None:
        """Removes a record, which must be its partition's first; ValueError otherwise."""
        p = self._partitions[pulled.place]
        if p.records[0] is not pulled:
            raise ValueError("records of a partition leave in the log's order")
        p.records.popleft()
        p.size -= len(pulled.record.value or b"")
        p.replays -= pulled.is_replay

    def overdue_partition(self, seconds: float) -> Place | None:
        """A partition whose records are known to exist and have not arrived for so many seconds. From any thread."""
        since = self._clock() - seconds
        late = (k for k, p in list(self._partitions.items()) if p.waiting_since is not None and p.waiting_since < since)
        return next(late, None)

    def _awaits_records(self) -> bool:
        """Whether a partition without queued records is known to hold some, for at most `ARRIVAL_WAIT_S`."""
        now, is_awaiting = self._clock(), False
        for p in self._partitions.values():
            if p.records or p.next_offset >= p.known_end:
                continue
            if p.waiting_since is None:
                p.waiting_since = now
            is_awaiting |= now - p.waiting_since < ARRIVAL_WAIT_S
        return is_awaiting
