"""Step 3: claims, one commit for all of them, and what is true when Kafka's answer is not certain.

Used by the intake in its one thread. What PROTOCOL asks for is kept to the letter, with one addition: a rejected commit
is treated like one without an answer, because librdkafka repeats a commit after a lost connection, so that a rejection
may be the answer to the second of two sends, the first of which was accepted.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from agents.intake.consumer import Membership, TaskConsumer
from headrace.contract.journal import Claim, Tombstone, decode_journal, offsets_to_commit
from headrace.contract.records import Outgoing, Place, Record, Source
from headrace.errors import Retryable, Undecodable
from headrace.kafka.client import Kafka, Sender, Sent, log_throttled
from headrace.kafka.reading import offsets, read_ranges
from headrace.process.failpoints import Failpoint

log = logging.getLogger(__name__)

ANSWER_S = 5.0  # for claims and outcomes; the thread must serve the group again after that


class ClaimCommit:
    """`at` names the places where fault tests step in; `stopping` ends all waiting."""

    def __init__(
        self, kafka: Kafka, sender: Sender, consumer: TaskConsumer, failpoint: Failpoint, stopping: Callable[[], bool]
    ) -> None:
        self._kafka, self._sender, self._consumer, self._failpoint, self._stopping = (
            kafka,
            sender,
            consumer,
            failpoint,
            stopping,
        )
        self._admin = kafka.admin()
        self.voided = 0

    def write(self, records: Sequence[Outgoing]) -> list[Sent]:
        """Sends claims and outcomes; for `acknowledged`."""
        return [self._sender.send(r) for r in records]

    def acknowledged(self, sent: Iterable[Sent]) -> bool:
        """Whether Kafka has all of them, within a few seconds."""
        deadline = time.monotonic() + ANSWER_S
        try:
            for answer in sent:
                answer.result(max(0.0, deadline - time.monotonic()))
        except (TimeoutError, Retryable):
            return False
        return True

    def commit(self, membership: Membership, claims: Sequence[Claim], ends: Mapping[Place, int]) -> list[Claim] | None:
        """Commits `ends`; returns the claims that hold and may start. None: it is not certain yet, see `resolve`."""
        self._failpoint("before commit")
        accepted = self._consumer.commit(membership, ends)
        self._failpoint("after commit")
        return list(claims) if accepted else None

    def resolve(self, claims: Sequence[Claim]) -> list[Claim]:
        """After a commit in doubt: rejoins, reads the committed offsets, then the journal to its end; void claims get
        their tombstone. Returns those that hold; none at all when the intake is to stop: the reaper will judge them."""
        begins = dict(self._consumer.journal_ends)
        generation = max((c.generation for c in claims), default=-1)
        while not self._stopping():
            try:
                self._rejoin(generation)
                held = self._held(claims, begins)
                break
            except Retryable as e:
                log_throttled("resolve", "Claims stay in doubt: %s", e)
        else:
            return []
        for claim in claims:
            if claim not in held:
                self.void(claim)
        return held

    def void(self, claim: Claim) -> None:
        """Takes back an own claim that must not start."""
        self.voided += 1
        self._sender.send(claim.tombstone("void"))

    def void_when_sent(self, claims: Sequence[Claim]) -> None:
        """The same for claims that are still on their way: the sender keeps the order of what it sends."""
        for claim in claims:
            self.void(claim)

    def _rejoin(self, generation: int) -> None:
        """Until we are a member of a later generation, which voids commits still on their way."""
        self._consumer.rejoin_begin()
        deadline = time.monotonic() + 30
        while not self._stopping():
            self._consumer.fill(0.05)
            if self._consumer.membership is not None and self._consumer.membership[0] > generation:
                return
            if time.monotonic() > deadline:
                raise Retryable("the group does not take this node in again")

    def _held(self, claims: Sequence[Claim], begins: Mapping[int, int]) -> list[Claim]:
        if not claims:
            return []
        committed = self._consumer.committed(offsets_to_commit(claims))
        journal = [("tasks.running", p) for p in {c.tasks[0].source.partition for c in claims}]
        ends = offsets(self._kafka, self._admin, journal)
        higher = HigherGenerations()
        read_ranges(
            self._kafka,
            {place: (begins.get(place[1], 0), end) for place, end in ends.items()},
            lambda message: higher.read(self._kafka.record(message)),
        )
        return [
            c
            for c in claims
            if all(committed[t.source.topic, t.source.partition] > t.source.offset for t in c.tasks)
            and not any(higher.than(c.generation, t.source) for t in c.tasks)
        ]


class HigherGenerations:
    """The highest generation that the journal has for each source."""

    def __init__(self) -> None:
        self._highest: dict[Source, int] = {}

    def read(self, record: Record) -> None:
        try:
            entry = decode_journal(record)
        except Undecodable:
            return
        sources = [entry.key.source] if isinstance(entry, Tombstone) else [t.source for t in entry.tasks]
        for source in sources:
            self._highest[source] = max(self._highest.get(source, -1), entry.generation)

    def than(self, generation: int, source: Source) -> bool:
        """Whether another claim, or the tombstone of one, has a higher one: then this generation's claim is void."""
        return self._highest.get(source, -1) > generation
