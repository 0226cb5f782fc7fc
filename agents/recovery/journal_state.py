"""One partition of the journal as the reaper knows it: the live claims, and which owner has claimed what. Pure.

Memory is bounded. A live claim is kept without its submissions, which are read again when it is reaped. Of the offsets
that an owner has claimed only the lowest and the highest are kept. That is enough: an owner goes through a partition in
order, so it has pulled everything between two of its offsets, and a claim of an earlier owner on any of it is void.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from headrace.contract.journal import Claim, EpochMark, Tombstone, decode_journal
from headrace.contract.ownership import Ownership
from headrace.contract.records import Record, Source
from headrace.errors import Undecodable

_MAX_OWNERSHIPS = 1000  # earlier ones have no claims left to judge


@dataclass(slots=True)
class LiveClaim:
    """A claim without a tombstone."""

    key: str
    responsible: str  # boot
    ownership: Ownership
    sources: tuple[Source, ...]
    offset: int  # of its record in the journal
    resent: set[int] = field(default_factory=set)  # offsets of its tasks that have been sent again already


class JournalState:
    """`next_offset` is where reading goes on; `caught_up` is true once the partition's end has been read."""

    def __init__(self, passed_over: Callable[[], None] = lambda: None) -> None:
        """`passed_over` is called for each record that is neither claim nor tombstone."""
        self._passed_over = passed_over
        self.live: dict[str, LiveClaim] = {}
        self.next_offset = 0
        self.caught_up = False
        self._newest_epoch = -1
        self._claimed: dict[str, dict[Ownership, tuple[int, int]]] = {}  # topic -> owner -> lowest and highest offset

    def apply_record(self, record: Record) -> None:
        """Takes in the partition's next record."""
        self.next_offset = record.offset + 1
        try:
            entry = decode_journal(record)
        except Undecodable:  # forged: there is nothing in it to send again
            self._passed_over()
            return
        if isinstance(entry, EpochMark):
            self._newest_epoch = record.offset
            return
        self._newest_epoch = max(self._newest_epoch, -1 if entry.epoch is None else entry.epoch)
        owner, key = entry.ownership(self._newest_epoch), str(entry.key)
        if isinstance(entry, Tombstone):
            self.live.pop(key, None)
            self._note_claimed(entry.key.source, owner)
            return
        self.live[key] = _live_claim(entry, record.offset, self.live.get(key))
        for task in entry.tasks:
            self._note_claimed(task.source, owner)

    def is_void(self, source: Source, ownership: Ownership) -> bool:
        """Whether a later owner has pulled that record too, so that a claim of `ownership` never took effect."""
        spans = self._claimed.get(source.topic, {})
        return any(low <= source.offset <= high and o.is_later(ownership) for o, (low, high) in spans.items())

    def _note_claimed(self, source: Source, owner: Ownership) -> None:
        spans = self._claimed.setdefault(source.topic, {})
        low, high = spans.get(owner, (source.offset, source.offset))
        spans[owner] = min(low, source.offset), max(high, source.offset)
        if len(spans) > _MAX_OWNERSHIPS:
            del spans[min(spans, key=lambda o: o.age)]


def _live_claim(claim: Claim, offset: int, known: LiveClaim | None) -> LiveClaim:
    """`known` is what an earlier record of the same key has left."""
    sources = tuple(t.source for t in claim.tasks)
    resent = known.resent if known else set()
    return LiveClaim(str(claim.key), claim.responsible, claim.ownership(offset), sources, offset, resent)
