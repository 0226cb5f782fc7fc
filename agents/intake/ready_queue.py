"""The merge buffer: what the intake has pulled and not yet claimed, and which of it comes next (I5).

Pure: no Kafka, no clock but the one it is given. Records of a partition leave in the log's order, since one offset is
all that can be committed. Across partitions: those with a replay waiting first, then new high ones, then normal ones,
each by time. A normal record waits, for a moment at most, while another partition is known to hold records that have
not come yet: without that, FIFO over a backlog of many partitions is by chance.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from agents.intake.admission import Decision
from headrace.contract.records import Place, Record
from headrace.contract.task import Task

PAUSE_RECORDS, PAUSE_BYTES = 512, 512 * 1024  # a partition with so much buffered is not fetched,
RESUME_RECORDS, RESUME_BYTES = 256, 256 * 1024  # until so little is left
PATIENCE_S = 0.15  # for records known to be there; a partition whose broker is away must not hold up the others


@dataclass(slots=True, eq=False)
class Pulled:
    """A record in the buffer."""

    record: Record
    task: Task
    broken_headers: str | None = None  # what is wrong with its headers
    verdict: Decision | None = None  # the admission's, once asked

    @property
    def place(self) -> Place:
        return self.record.topic, self.record.partition

    @property
    def is_replay(self) -> bool:
        return self.task.attempt > 1


@dataclass(slots=True)
class _Partition:
    records: deque[Pulled] = field(default_factory=deque)
    size: int = 0  # bytes of the values
    replays: int = 0
    paused: bool = False
    next_offset: int = 0  # of the record that will come next from Kafka
    known_end: int = 0  # what the broker last said of the partition's end
    waiting_since: float | None = None  # empty though records are there
    held_until: float = 0.0  # its head cannot be taken before


class ReadyQueue:
    """The buffers of all owned partitions."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._partitions: dict[Place, _Partition] = {}

    def __len__(self) -> int:
        return sum(len(p.records) for p in self._partitions.values())

    def assign(self, starts: dict[Place, tuple[int, int]]) -> None:
        """Begins anew with the owned partitions, each with (offset of its next record, known end)."""
        self._partitions = {place: _Partition(next_offset=at, known_end=end) for place, (at, end) in starts.items()}

    def drop(self) -> list[Place]:
        """A rebalance: nothing of what was pulled counts any more. Returns the partitions that were paused."""
        paused = [place for place, p in self._partitions.items() if p.paused]
        self._partitions = {}
        return paused

    def places(self) -> list[Place]:
        return list(self._partitions)

    def owns(self, place: Place) -> bool:
        return place in self._partitions

    def add(self, pulled: Pulled, known_end: int) -> None:
        """Takes in the next record of an owned partition; one that comes a second time is passed over."""
        p = self._partitions.get(pulled.place)
        if p is None or pulled.record.offset < p.next_offset:
            return
        p.records.append(pulled)
        p.size += len(pulled.record.value or b"")
        p.replays += pulled.is_replay
        p.next_offset = pulled.record.offset + 1
        p.known_end = max(known_end, p.next_offset)
        p.waiting_since = None

    def at_end(self, place: Place, offset: int) -> None:
        """The broker has no more records of that partition than those before `offset`."""
        if p := self._partitions.get(place):
            p.next_offset = max(p.next_offset, offset)
            p.known_end = p.next_offset
            p.waiting_since = None

    def rewind(self, place: Place, offset: int) -> None:
        """Empties a partition's buffer: it goes on at an earlier offset."""
        if p := self._partitions.get(place):
            self._partitions[place] = _Partition(paused=p.paused, next_offset=offset, known_end=p.known_end)

    def to_pause(self) -> list[Place]:
        """Partitions that have become full; they count as paused from now."""
        full = [
            (k, p)
            for k, p in self._partitions.items()
            if not p.paused and (len(p.records) >= PAUSE_RECORDS or p.size >= PAUSE_BYTES)
        ]
        for _, p in full:
            p.paused = True
        return [place for place, _ in full]

    def to_resume(self) -> list[Place]:
        """Partitions that have room again; no longer paused from now."""
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

    def next(self) -> Pulled | None:
        """The record that comes next, left where it is; None while there is none, or while one should be waited for."""
        best: tuple[tuple[int, int, int], Pulled] | None = None
        now = self._clock()
        for p in self._partitions.values():
            if p.records and p.held_until <= now:
                head = p.records[0]
                rank = 2 if head.record.topic != "tasks.high" else 0 if p.replays else 1
                order = (rank, head.record.timestamp_ms, head.record.offset)
                if best is None or order < best[0]:
                    best = order, head
        if best is None or (self._is_incomplete() and best[0][0] > 0):
            return None
        return best[1]

    def hold(self, place: Place, seconds: float) -> None:
        """The head of that partition cannot be taken for so long, and what is behind it waits with it."""
        self._partitions[place].held_until = self._clock() + seconds

    def take(self, pulled: Pulled) -> None:
        """Removes the first record of its partition."""
        p = self._partitions[pulled.place]
        if p.records[0] is not pulled:
            raise ValueError("records of a partition leave in the log's order")
        p.records.popleft()
        p.size -= len(pulled.record.value or b"")
        p.replays -= pulled.is_replay

    def overdue(self, seconds: float) -> Place | None:
        """A partition whose records are known to be there and have not come for so long. From any thread."""
        since = self._clock() - seconds
        late = (k for k, p in list(self._partitions.items()) if p.waiting_since is not None and p.waiting_since < since)
        return next(late, None)

    def _is_incomplete(self) -> bool:
        """Whether a partition without buffered records is known to hold some, and has not kept us waiting for long."""
        now, incomplete = self._clock(), False
        for p in self._partitions.values():
            if p.records or p.next_offset >= p.known_end:
                continue
            if p.waiting_since is None:
                p.waiting_since = now
            incomplete |= now - p.waiting_since < PATIENCE_S
        return incomplete
