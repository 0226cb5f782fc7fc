"""Who has claimed what, in the end of a partition of the journal. Pure.

Used by `agents.intake.claim_commit`, to find out whether claims in doubt count.
"""

from collections import defaultdict

from headrace.contract.journal import Claim, EpochMark, Tombstone, decode_journal
from headrace.contract.ownership import Ownership
from headrace.contract.records import Record, Source
from headrace.errors import Undecodable


class JournalOwners:
    """The owners that have claimed each source."""

    def __init__(self) -> None:
        self._owners: dict[Source, set[Ownership]] = defaultdict(set)

    def add_record(self, record: Record) -> None:
        try:
            entry = decode_journal(record)
        except Undecodable:
            return
        if isinstance(entry, EpochMark):
            return
        sources = [entry.key.source] if isinstance(entry, Tombstone) else [t.source for t in entry.tasks]
        for source in sources:
            self._owners[source].add(entry.ownership(record.offset))

    def has_later(self, source: Source, claim: Claim) -> bool:
        """Whether a claim or tombstone of a later owner is there for `source`, so that an own `claim` is void."""
        return any(o.is_later(claim.ownership(-1)) for o in self._owners.get(source, ()))
