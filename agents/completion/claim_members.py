"""The end of a claim that holds several tasks: its tombstone follows its last member's end.

Used by the intake, the delegation and the finisher.
"""

import logging
import threading

from headrace.contract.journal import Claim
from headrace.contract.records import Outgoing
from headrace.kafka.client import Sender, Sent

log = logging.getLogger(__name__)


class ClaimMembers:
    """Which claims of several tasks still have unfinished ones. Safe from any thread; holds nothing of single ones."""

    def __init__(self) -> None:
        self._left: dict[str, int] = {}
        self._lock = threading.Lock()

    def is_last(self, claim: Claim) -> bool:
        """To be asked once for each member, when Kafka has what follows from its end: is the claim over with it?"""
        if len(claim.tasks) == 1:
            return True
        key = str(claim.key)
        with self._lock:
            self._left[key] = self._left.get(key, len(claim.tasks)) - 1
            return self._left[key] == 0 and self._left.pop(key) == 0


def end_member(sender: Sender, members: ClaimMembers, claim: Claim, outcome: Outgoing) -> None:
    """The outcome of a task that is not to start, and its claim's tombstone if it is the last and Kafka has the
    outcome. Does not wait."""

    def then(answer: Sent) -> None:
        if answer.exception() is not None:  # only a broken client does that
            log.error("The outcome of a task of claim %s could not be sent: %s", claim.key, answer.exception())
        elif members.is_last(claim):
            sender.send(claim.tombstone("done"))

    sender.send(outcome).add_done_callback(then)
