"""One partition of the journal as the reaper knows it: the live claims, and which owner has claimed what. Pure.

Memory is bounded. A live claim is kept without its submissions, which are read again when it is reaped, and what each
owner has claimed as one range of offsets. `checkpoint` says from where, and with which ranges, another reaper knows the
same.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from headrace.contract.journal import Claim, EpochMark, Tombstone, decode_journal
from headrace.contract.ownership import Ownership
from headrace.contract.records import Record, Source
from headrace.errors import Undecodable

from .claimed_ranges import ClaimedRanges


@dataclass(slots=True)
class LiveClaim:
    """A claim without a tombstone."""

    key: str
    responsible: str  # boot
    ownership: Ownership
    sources: tuple[Source, ...]
    offset: int  # of its record in the journal
    first_offset: int  # of the first record of its key that was read: a claim may be written again
    resent: set[int] = field(default_factory=set)  # offsets of its tasks that have been sent again already


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A new owner that reads from `offset` on, and knows `ranges`, knows all that can decide about a claim."""

    offset: int
    ranges: str  # as `ClaimedRanges.encode` writes them


class JournalState:
    """`next_offset` is where reading goes on; `caught_up` is true once the partition's end has been read."""

    def __init__(self, passed_over: Callable[[], None] = lambda: None, start: Checkpoint | None = None) -> None:
        """`passed_over` is called for each record that is neither claim nor tombstone. Undecodable for a `start` of
        another version."""
        self._passed_over = passed_over
        self.live: dict[str, LiveClaim] = {}
        self.next_offset = start.offset if start else 0
        self.caught_up = False
        self._ranges = ClaimedRanges.decode(start.ranges) if start else ClaimedRanges()

    def apply_record(self, record: Record) -> None:
        """Takes in the partition's next record."""
        self.next_offset = record.offset + 1
        try:
            entry = decode_journal(record)
        except Undecodable:  # forged: there is nothing in it to send again
            self._passed_over()
            return
        if isinstance(entry, EpochMark):
            self._ranges.newest_epoch = record.offset
            return
        self._ranges.newest_epoch = max(self._ranges.newest_epoch, -1 if entry.epoch is None else entry.epoch)
        owner, key = entry.ownership(self._ranges.newest_epoch), str(entry.key)
        if isinstance(entry, Tombstone):
            self.live.pop(key, None)
            self._ranges.note_claimed(entry.key.source, owner, record.timestamp_ms)
            return
        self.live[key] = _live_claim(entry, record.offset, self.live.get(key))
        for task in entry.tasks:
            self._ranges.note_claimed(task.source, owner, record.timestamp_ms)

    def is_void(self, source: Source, ownership: Ownership) -> bool:
        """Whether a later owner has pulled that record too, so that a claim of `ownership` never took effect."""
        return self._ranges.is_void(source, ownership)

    def checkpoint(self) -> Checkpoint:
        """The beginning of the oldest open claim, or how far the partition has been read when none is open."""
        offset = min((c.first_offset for c in self.live.values()), default=self.next_offset)
        return Checkpoint(offset, self._ranges.encode(offset, {c.ownership for c in self.live.values()}))


def _live_claim(claim: Claim, offset: int, known: LiveClaim | None) -> LiveClaim:
    """`known` is what an earlier record of the same key has left."""
    sources = tuple(t.source for t in claim.tasks)
    first = known.first_offset if known else offset
    resent = known.resent if known else set()
    return LiveClaim(str(claim.key), claim.responsible, claim.ownership(offset), sources, offset, first, resent)
