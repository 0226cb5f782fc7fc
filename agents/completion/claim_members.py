"""The end of a claim that holds several tasks: its tombstone is sent when the last of them has ended.

Used by the intake, the delegation and the finisher.
"""

import threading

from headrace.contract.journal import Claim
from headrace.contract.records import Outgoing
from headrace.kafka.sender import Sender, Sent


class ClaimMembers:
    """Counts the unfinished tasks of each claim with several. Safe from any thread; keeps nothing for single ones."""

    def __init__(self) -> None:
        self._unfinished: dict[str, int] = {}
        self._lock = threading.Lock()

    def end_member(self, claim: Claim) -> bool:
        """Counts one task as ended; returns whether it was the claim's last.

        Call it once for each task, after Kafka has acknowledged its outcome or next attempt.
        """
        if len(claim.tasks) == 1:
            return True
        key = str(claim.key)
        with self._lock:
            self._unfinished[key] = self._unfinished.get(key, len(claim.tasks)) - 1
            return self._unfinished[key] == 0 and self._unfinished.pop(key) == 0


def send_unstarted_outcome(sender: Sender, members: ClaimMembers, claim: Claim, outcome: Outgoing) -> None:
    """Sends the outcome of a claimed task that will not start, without waiting.

    The claim's tombstone follows when Kafka has the outcome and the task was the claim's last. The sender owns both.
    """

    def on_answer(_: Sent) -> None:
        if members.end_member(claim):
            sender.deliver(claim.tombstone("done"))

    sender.deliver(outcome).add_done_callback(on_answer)
