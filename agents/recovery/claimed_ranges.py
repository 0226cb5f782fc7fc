"""Which owner of one partition has claimed which of its offsets. Pure; used by the reaper.

Of the offsets that an owner has claimed only the lowest and the highest are kept. That is enough: an owner goes through
a partition in order, so it has pulled everything between two of its offsets, and a claim of an earlier owner on any of
it is void. The ranges travel in the reaper's checkpoint, because a claim of an earlier owner may arrive when the claims
that make it void have ended long ago (docs/design/0037). Undecodable for a text that is no such ranges.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import orjson

from headrace.contract.bounds import MAX_INT64, whole_number
from headrace.contract.ownership import Ownership
from headrace.contract.records import Source
from headrace.errors import Undecodable

_MAX_OWNERSHIPS = 1000  # earlier ones have no claims left to judge
_VERSION = 1
KEPT_MS = 2 * 3_600_000  # the journal keeps a claim and its tombstone for an hour each, before compaction removes them


@dataclass(slots=True)
class _Range:
    """Offsets of one topic, and when the log got the last claim or tombstone that names one of them."""

    low: int
    high: int
    seen_ms: int

    def covers(self, other: "_Range") -> bool:
        return self.low <= other.low and other.high <= self.high


class ClaimedRanges:
    """By topic and owner."""

    def __init__(self) -> None:
        self._ranges: dict[str, dict[Ownership, _Range]] = {}
        self._newest_ms = 0
        self.newest_epoch = -1  # of the marks, claims and tombstones so far; -1: of none

    def note_claimed(self, source: Source, owner: Ownership, at_ms: int) -> None:
        """Takes in a claim or tombstone of that owner; `at_ms` is its time in the log."""
        self._newest_ms = max(self._newest_ms, at_ms)
        ranges = self._ranges.setdefault(source.topic, {})
        known = ranges.get(owner)
        if known is None:
            ranges[owner] = _Range(source.offset, source.offset, at_ms)
        else:
            known.low, known.high = min(known.low, source.offset), max(known.high, source.offset)
            known.seen_ms = max(known.seen_ms, at_ms)
        if len(ranges) > _MAX_OWNERSHIPS:
            del ranges[min(ranges, key=lambda o: o.age)]

    def is_void(self, source: Source, ownership: Ownership) -> bool:
        """Whether a later owner has pulled that record too, so that a claim of `ownership` never took effect."""
        ranges = self._ranges.get(source.topic, {})
        return any(r.low <= source.offset <= r.high and o.is_later(ownership) for o, r in ranges.items())

    def encode(self, offset: int, open_claims: Collection[Ownership]) -> str:
        """As text for a reader that begins at `offset` of the journal, without what can no longer decide about a claim.

        Owners later than one of the `open_claims` stay, and so do those of the last two hours of the log, for claims
        that are still on their way. No range stays that one of a later epoch covers.
        """
        since_ms = self._newest_ms - KEPT_MS
        found: dict[str, list[list[int | None]]] = {}
        for topic, ranges in self._ranges.items():
            rows = found[topic] = []
            later: list[_Range] = []  # of epochs, which have one order; without an epoch `is_later` knows no order
            for owner, r in sorted(ranges.items(), key=lambda item: item[0].age, reverse=True):
                if r.seen_ms < since_ms and not any(owner.is_later(claim) for claim in open_claims):
                    continue
                if owner.epoch is not None:
                    if any(x.covers(r) for x in later):
                        continue
                    later.append(r)
                rows.append([r.low, r.high - r.low, self._newest_ms - r.seen_ms, owner.generation, _age_number(owner)])
        # The epoch at `offset`. An unknown one is taken for an early one: it makes fewer claims void, and none is lost.
        epoch = self.newest_epoch if self.newest_epoch < offset else -1
        raw = {"version": _VERSION, "newest_ms": self._newest_ms, "newest_epoch": epoch, "ranges": found}
        return orjson.dumps(raw).decode()

    @classmethod
    def decode(cls, text: str) -> "ClaimedRanges":
        found = cls()
        try:
            raw: Any = orjson.loads(text)
            if raw["version"] != _VERSION:
                raise ValueError(f"version {raw['version']}")
            found._newest_ms = whole_number(raw["newest_ms"])
            found.newest_epoch = whole_number(raw["newest_epoch"], least=-1)
            for topic, rows in raw["ranges"].items():
                found._ranges[str(topic)] = dict(_decode_row(row, found._newest_ms) for row in rows)
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise Undecodable(f"not the ranges of owners: {e}", text.encode()) from None
        return found


def _age_number(owner: Ownership) -> int:
    """The epoch, or what stands in its place when there is none: below zero, so that the two differ."""
    return owner.epoch if owner.epoch is not None else -2 - owner.at


def _decode_row(row: Any, newest_ms: int) -> tuple[Ownership, _Range]:
    low, length, since_ms, generation, age = (whole_number(n, least=-MAX_INT64) for n in row)
    owner = Ownership(age, generation) if age >= 0 else Ownership(None, generation, -2 - age)
    return owner, _Range(low, low + length, newest_ms - since_ms)
