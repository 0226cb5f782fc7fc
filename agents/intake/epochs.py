"""The epochs of this node's claims: a mark in the journal for each partition, before the first claim from it.

Used by the intake in its one thread, before each turn. Mark → acknowledged → a commit that the group accepts: only a
partition's owner gets past the commit, so epochs have the order of owners, also when the group is made anew and its
generations begin again (docs/protocol.md, step 3). A partition without records gets no mark: while nothing was ever
claimed from it, its journal stays empty (`agents.intake.consumer`).
"""

from collections.abc import Mapping

from headrace.contract.journal import EpochMark
from headrace.contract.records import Place
from headrace.errors import Retryable
from headrace.process.failpoints import Failpoint

from .claim_commit import ClaimCommit
from .consumer import Membership, TaskConsumer


class Epochs:
    """Of one membership at a time."""

    def __init__(self, claims: ClaimCommit, consumer: TaskConsumer, failpoint: Failpoint) -> None:
        self._claims, self._consumer, self._failpoint = claims, consumer, failpoint
        self._membership: Membership | None = None
        self._epochs: dict[int, int] = {}  # by partition

    def begin(self, membership: Membership, boot: str, firsts: Mapping[Place, int]) -> Mapping[int, int]:
        """The epochs by partition, with one for each place in `firsts`: the offset of its first queued record.

        Retryable when Kafka does not acknowledge a mark in time, refuses it, or leaves its commit in doubt; then the
        node asks to join the group again.
        """
        if membership != self._membership:
            self._membership, self._epochs = membership, {}
        new = {place: at for place, at in firsts.items() if place[1] not in self._epochs}
        if not new:
            return self._epochs
        self._failpoint("before epoch")
        sent = self._claims.send_records([EpochMark(p, boot).encode() for p in {p for _, p in new}])
        if not self._claims.wait_acknowledged(sent):
            refused = self._claims.void_unacknowledged((), sent)
            raise refused or Retryable("Kafka has not acknowledged the marks that claims need")
        self._failpoint("before epoch's commit")
        if not self._consumer.confirm(membership, new):
            self._consumer.rejoin_soon()
            raise Retryable("the group has not confirmed that this node is its member")
        self._epochs |= {partition: offset for _, partition, offset in (answer.result() for answer in sent)}
        return self._epochs
