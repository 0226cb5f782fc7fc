"""One partition of the journal as the reaper knows it: the living claims, and which generation has touched what. Pure.

Memory is bounded: a claim is kept without its submissions (they are read again when it is reaped), and what tombstones
say of generations is kept as one range of offsets for each. A range may stand for its members: an owner goes through a
partition in order, so that whatever lies between two offsets of its generation was pulled in that generation too, and a
claim of an older one on it is void.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from headrace.contract.journal import Claim, Tombstone, decode_journal
from headrace.contract.records import Record, Source
from headrace.errors import Undecodable

_MOST_GENERATIONS = 1000  # older ones have no claims that could still be judged


@dataclass(slots=True)
class Held:
    """A living claim."""

    key: str
    responsible: str  # boot
    generation: int
    sources: tuple[Source, ...]
    offset: int  # of its record in the journal
    resent: set[int] = field(default_factory=set)  # offsets of members that have been sent again already


class JournalState:
    """`next_offset` is where reading goes on; `caught_up` once the end has been seen."""

    def __init__(self, passed_over: Callable[[], None] = lambda: None) -> None:
        """`passed_over` is called for each record that is neither claim nor tombstone."""
        self._passed_over = passed_over
        self.live: dict[str, Held] = {}
        self.next_offset = 0
        self.caught_up = False
        self._touched: dict[str, dict[int, tuple[int, int]]] = {}  # topic -> generation -> first and last offset

    def apply(self, record: Record) -> None:
        """Takes in the next record."""
        self.next_offset = record.offset + 1
        try:
            entry = decode_journal(record)
        except Undecodable:  # forged: it holds nothing that could be sent again
            self._passed_over()
            return
        key = str(entry.key)
        if isinstance(entry, Tombstone):
            self.live.pop(key, None)
            self._touch(entry.key.source, entry.generation)
            return
        known = self.live.get(key)
        self.live[key] = self._held(entry, record.offset, known)
        for task in entry.tasks:
            self._touch(task.source, entry.generation)

    def is_void(self, source: Source, generation: int) -> bool:
        """Whether a later generation has pulled that record too: then the claim of this one was never effective."""
        spans = self._touched.get(source.topic, {})
        return any(g > generation and low <= source.offset <= high for g, (low, high) in spans.items())

    @staticmethod
    def _held(claim: Claim, offset: int, known: Held | None) -> Held:
        sources = tuple(t.source for t in claim.tasks)
        return Held(
            str(claim.key), claim.responsible, claim.generation, sources, offset, known.resent if known else set()
        )

    def _touch(self, source: Source, generation: int) -> None:
        spans = self._touched.setdefault(source.topic, {})
        low, high = spans.get(generation, (source.offset, source.offset))
        spans[generation] = min(low, source.offset), max(high, source.offset)
        if len(spans) > _MOST_GENERATIONS:
            del spans[min(spans)]
