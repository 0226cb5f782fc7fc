"""Step 3 of the protocol (docs/protocol.md): claims, one commit for all of them, and what holds when Kafka's answer is
not certain.

Used by the intake in its one thread. A rejected commit is treated like one without an answer: librdkafka repeats a
commit after a lost connection, so the rejection may answer the second of two sends of which the first was accepted.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from confluent_kafka import KafkaException

from headrace.contract.journal import Claim, offsets_to_commit
from headrace.contract.records import Outgoing, Place
from headrace.errors import Refused, Retryable
from headrace.kafka.client import Kafka
from headrace.kafka.reading import error_text, read_ranges, readable_whole
from headrace.kafka.sender import Sender, Sent
from headrace.process.failpoints import Failpoint
from headrace.process.health import STALE_S
from headrace.process.throttled_log import log_throttled

from ..monitoring.protocol_metrics import ProtocolMetrics
from .consumer import Membership, TaskConsumer
from .journal_owners import JournalOwners

log = logging.getLogger(__name__)

ANSWER_S = 5.0  # for claims and outcomes; then the thread must serve the group again
_REJOIN_S = 30.0


class ClaimCommit:
    """`is_stopping` ends all waiting."""

    def __init__(
        self,
        kafka: Kafka,
        sender: Sender,
        consumer: TaskConsumer,
        *,
        failpoint: Failpoint,
        is_stopping: Callable[[], bool],
        metrics: ProtocolMetrics,
    ) -> None:
        self._kafka, self._sender, self._consumer = kafka, sender, consumer
        self._failpoint, self._is_stopping, self._metrics = failpoint, is_stopping, metrics
        self._unanswered: list[tuple[Claim | None, Sent]] = []  # sent by a turn that was given up
        self._unanswered_since = 0.0

    def send_records(self, records: Sequence[Outgoing]) -> list[Sent]:
        """Sends claims and outcomes; for `wait_acknowledged`."""
        return [self._sender.send(r) for r in records]

    def wait_acknowledged(self, sent: Iterable[Sent]) -> bool:
        """Whether Kafka has acknowledged all of them within `ANSWER_S`."""
        deadline = time.monotonic() + ANSWER_S
        try:
            for answer in sent:
                answer.result(max(0.0, deadline - time.monotonic()))
        except (TimeoutError, Retryable):
            return False
        return True

    def commit(self, membership: Membership, claims: Sequence[Claim], ends: Mapping[Place, int]) -> list[Claim] | None:
        """Commits `ends`; returns the effective claims. None: the commit is in doubt, see `resolve`."""
        self._failpoint("before commit")
        accepted = self._consumer.commit(membership, ends)
        self._failpoint("after commit")
        return list(claims) if accepted else None

    def resolve(self, membership: Membership, claims: Sequence[Claim]) -> list[Claim]:
        """After a commit in doubt: rejoins the group, reads the committed offsets, then the journal to its end.

        Writes the tombstones of the void claims and returns the effective ones; none when the intake is stopping,
        because the reaper will judge them.
        """
        begins = dict(self._consumer.journal_ends)
        while not self._is_stopping():
            try:
                self._rejoin(membership)
                effective = self._effective(claims, begins)
                break
            except (Retryable, KafkaException) as e:
                words = error_text(e) if isinstance(e, KafkaException) else str(e)
                log_throttled("resolve", "Claims stay in doubt: %s", words)
        else:
            return []
        self.void([c for c in claims if c not in effective])
        return effective

    def void_unacknowledged(self, claims: Sequence[Claim], sent: Sequence[Sent]) -> Refused | None:
        """Takes back the claims of a turn that Kafka has not acknowledged whole. `sent` begins with their answers.

        Their tombstones follow in `settle_unanswered`, each after its claim's answer. Returns the error when Kafka
        refuses one of the records: the next turn would meet the same.
        """
        self._unanswered = [*zip(claims, sent, strict=False), *((None, answer) for answer in sent[len(claims) :])]
        self._unanswered_since = time.monotonic()
        return next((error for answer in sent if (error := refusal_of(answer)) is not None), None)

    def settle_unanswered(self) -> bool:
        """Returns whether Kafka has answered everything that an earlier turn has sent in vain.

        Until then nothing may be claimed: the same records would be sent again and again, and the tombstone of a claim
        that arrives late could end the next claim under its key.
        """
        self.void([c for c, answer in self._unanswered if c and answer.done() and refusal_of(answer) is None])
        self._unanswered = [(c, answer) for c, answer in self._unanswered if not answer.done()]
        return not self._unanswered

    def held(self) -> list[Claim]:
        """The claims of earlier turns that Kafka has not answered; from any thread."""
        return [claim for claim, _ in self._unanswered if claim is not None]

    def check(self) -> str | None:
        """For the node's health: that Kafka leaves claims without an answer."""
        waited_s = time.monotonic() - self._unanswered_since
        if self._unanswered and waited_s > STALE_S:
            return f"Kafka has not answered claims for {waited_s:.0f} s: nothing can start"
        return None

    def void(self, claims: Sequence[Claim]) -> None:
        """Takes back own claims that must not start, which Kafka has acknowledged."""
        self._metrics.void_claims.inc(len(claims))
        for claim in claims:
            self._sender.deliver(claim.tombstone("void"))

    def _rejoin(self, left: Membership) -> None:
        """Returns in another membership, which voids commits still on their way; Retryable after `_REJOIN_S`.

        Its generation may be lower: the group may have been made anew.
        """
        self._consumer.rejoin()
        deadline = time.monotonic() + _REJOIN_S
        while not self._is_stopping():
            self._consumer.fill_queue(0.05)
            if self._consumer.membership not in (None, left):
                return
            if time.monotonic() > deadline:
                raise Retryable("the group has not taken this node in again")

    def _effective(self, claims: Sequence[Claim], begins: Mapping[int, int]) -> list[Claim]:
        if not claims:
            return []
        committed = self._consumer.committed(offsets_to_commit(claims))
        journal = [("tasks.running", p) for p in {c.tasks[0].source.partition for c in claims}]
        ends = readable_whole(self._kafka, self._kafka.admin(), journal)
        owners = JournalOwners()
        read_ranges(
            self._kafka,
            {place: (begins.get(place[1], 0), end) for place, end in ends.items()},
            lambda message: owners.add_record(self._kafka.record(message)),
        )
        return [
            c
            for c in claims
            if all(committed[t.source.topic, t.source.partition] > t.source.offset for t in c.tasks)
            and not any(owners.has_later(t.source, c) for t in c.tasks)
        ]


def refusal_of(answer: Sent) -> Refused | None:
    """The error with which Kafka has refused the record, so that it is not in the log."""
    error = answer.exception() if answer.done() else None
    return error if isinstance(error, Refused) else None
