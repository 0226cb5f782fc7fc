"""What the reaper has sent for a claim and Kafka has not acknowledged: the next attempts, then the claim's tombstone.

Used by the reaper, in its thread. The sender owns the records until Kafka has them, also while it refuses them. A claim
stays in its partition's state until its tombstone is read there: what is not in the log is not done, and when this node
dies, the partition's next owner finds the claim in the journal.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from headrace.contract.journal import Claim, Why
from headrace.contract.records import Outgoing
from headrace.kafka.sender import Sender, Sent
from headrace.process.failpoints import Failpoint

from .journal_state import JournalState


@dataclass(slots=True)
class _ClaimEnd:
    """How far the end of one claim has come. `state` is its partition's."""

    state: JournalState
    attempts: list[Sent] = field(default_factory=list)
    claim: Claim | None = None  # once all its tasks are sent again
    why: Why = "reaped"
    tombstone: Sent | None = None


class ClaimEnds:
    """By the claim's key."""

    def __init__(self, sender: Sender, failpoint: Failpoint) -> None:
        self._sender, self._failpoint = sender, failpoint
        self._ends: dict[str, _ClaimEnd] = {}

    def send_again(self, state: JournalState, key: str, records: Iterable[Outgoing]) -> None:
        """Sends next attempts or outcomes of some of the claim's tasks, without waiting."""
        end = self._ends.setdefault(key, _ClaimEnd(state))
        end.attempts += [self._sender.deliver(record) for record in records]

    def end_claim(self, state: JournalState, key: str, claim: Claim, why: Why) -> None:
        """Its tombstone follows when Kafka has all that was sent for it."""
        end = self._ends.setdefault(key, _ClaimEnd(state))
        end.claim, end.why = claim, why

    def is_ending(self, key: str) -> bool:
        """Whether only Kafka's answers are missing."""
        end = self._ends.get(key)
        return end is not None and end.claim is not None

    def send_tombstones(self, is_owned: Callable[[int, JournalState], bool]) -> None:
        """To be called at each turn. `is_owned`: whether the partition still has that state."""
        for key, end in list(self._ends.items()):
            if not all(sent.done() for sent in end.attempts):
                continue
            if end.claim is None:
                if key not in end.state.live:  # another reaper has ended it
                    del self._ends[key]
            elif end.tombstone is None:
                self._failpoint("reaper before tombstone")
                end.tombstone = self._sender.deliver(end.claim.tombstone(end.why))
            elif end.tombstone.done():
                _topic, partition, offset = end.tombstone.result()
                if end.state.next_offset > offset or not is_owned(partition, end.state):
                    del self._ends[key]
