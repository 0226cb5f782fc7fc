"""Delegation: claims for another node, which runs a kind that this node lacks (docs/protocol.md, claims for other
nodes).

The partition's owner claims with `for` = the other boot, commits, and then writes the same key again with phase `go`:
at once or, when no node had room, as soon as one has (`waiting_claims`), for that one. The other node follows the
journal. At `go` it waits for a slot, reads the control log to its end, and starts; it also ends the claim. Until `go`
the claim is the owner's, afterwards the other's: when either dies, the reaper knows whose it was.
"""

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from confluent_kafka import KafkaException

from headrace.contract.cluster import Heartbeat
from headrace.contract.journal import Claim, ClaimKey
from headrace.contract.records import Place, Record
from headrace.contract.states import Reason
from headrace.errors import Retryable
from headrace.kafka.client import UNHURRIED_FETCH, Kafka
from headrace.kafka.follower import Follower
from headrace.kafka.reading import end_offsets
from headrace.kafka.sender import Sender
from headrace.process.failpoints import Failpoint, no_failpoint

from ..completion.claim_members import ClaimMembers, send_unstarted_outcome
from ..execution.job import Job, Jobs
from ..execution.slots import Slots
from ..membership.identity import NodeIdentity
from ..membership.registry import Registry
from .admission import Admission, Admitted, Elsewhere, Refusal, refusal_outcome
from .cancellations import Cancellations
from .open_claims import OpenClaims
from .waiting_claims import WaitingClaim, WaitingClaims

log = logging.getLogger(__name__)

_JOURNAL_END_S = 30.0  # for Kafka to say at the start where the journal ends
_AGAIN_S = 1.0  # before a claim that could not be started is tried again
_CLAIMS_PER_SLOT = 2  # claims at once for a node, for each of its slots: enough to keep it busy, no more


class Delegation(Follower):
    """Both sides of it on one node: claims for others, and claims that others made for this node."""

    def __init__(
        self,
        kafka: Kafka,
        sender: Sender,
        node: NodeIdentity,
        *,
        slots: Slots,
        registry: Registry,
        cancellations: Cancellations,
        hand_over: Callable[[Jobs], None],
        failpoint: Failpoint = no_failpoint,
    ) -> None:
        """`hand_over` is called in a thread of the delegation's own, with one job and one slot reserved for it."""
        super().__init__(kafka, "delegation", ["tasks.running"])
        self._sender, self._node, self._slots = sender, node, slots
        self._registry, self._cancellations = registry, cancellations
        self._hand_over, self._failpoint = hand_over, failpoint
        self._admission = Admission(registry, cancellations.is_cancelled)
        self._delegated: dict[str, str] = {}  # key of each unfinished claim for another -> boot that runs it
        self.open_claims, self.waiting = OpenClaims(), WaitingClaims()
        self._is_alone = True  # no other node lives, as far as the consumer's options go
        self._starting: Claim | None = None
        self._unstartable: dict[str, str] = {}  # key of each claim that arrived and could not be started yet -> why
        self._lock = threading.Lock()
        self._arrived: queue.Queue[Claim] = queue.Queue()
        self._starter = threading.Thread(target=self._start_arrived, name="delegation-start", daemon=True)

    def start(self) -> None:
        """Call before the first heartbeat. Other nodes claim only for a boot that has announced itself, so the journal
        is read from its present end. Retryable when Kafka does not say in time where that is."""
        self._positions = self._journal_end()
        super().start()
        self._starter.start()

    def close(self) -> None:
        """Leaves claims that have arrived and not started to the reaper, which has them once this boot is dead."""
        super().close()
        self._starter.join(5)

    def check(self) -> str | None:
        """For the node's health: the follower's, or why a claim that another node made for this one cannot start."""
        failing = next(iter(list(self._unstartable.items())), None)
        return super().check() or (f"claim {failing[0]} cannot be started: {failing[1]}" if failing else None)

    def choose_host(self, kind: str) -> Heartbeat | None:
        """The node with room that runs the kind and is the least busy for its slots; None when no node has room, or all
        that there is belongs to tasks that wait aside."""
        return None if self.waiting.has_kind(kind) else self._host_with_room(kind)

    def choose_host_to_wait_for(self, kind: str, size: int) -> Heartbeat | None:
        """A node that runs the kind, with or without room; None when no more tasks, of `size` bytes, may wait aside."""
        return next(iter(self._hosts(kind)), None) if self.waiting.has_room(size) else None

    def note_claim(self, claim: Claim, waits_as: str | None = None) -> None:
        """Counts a claim for another node that is about to be written. `waits_as`: its kind, when it waits aside."""
        key = str(claim.key)
        with self._lock:
            self._delegated.pop(key, None)
            if waits_as is None:
                self._delegated[key] = claim.for_
        if waits_as is None:
            self.waiting.remove(key)
        else:
            self.waiting.add(claim, waits_as)

    def start_or_wait(self, claim: Claim) -> None:
        """The claim's commit is accepted: lets the other node start it, unless it waits aside."""
        if not self.waiting.mark_effective(claim):
            self.send_go(claim)

    def send_go(self, claim: Claim) -> None:
        """Lets the other node start the claim, whose commit is accepted. Once this boot is over, the claim is the
        reaper's, and a late `go` would start it a second time."""
        self._failpoint("before go")
        self._sender.deliver(claim.go().encode(), wanted=lambda: self._node.is_current(claim.by))

    def start_positions(self, ends: Mapping[Place, int]) -> Mapping[Place, int]:
        return self._positions

    def held(self) -> list[Claim]:
        """The claims that have arrived and wait to be started, the one that is being started first, and those for
        others that wait aside."""
        starting = self._starting
        with self._arrived.mutex:
            arrived = list(self._arrived.queue)
        return [*([] if starting is None else [starting]), *arrived, *self.waiting.claims()]

    def apply_record(self, record: Record) -> None:
        self.open_claims.apply_record(record, self._node.boot)
        if record.value is None:
            key = (record.key or b"").decode(errors="replace")
            self.waiting.remove(key)
            with self._lock:
                self._delegated.pop(key, None)
        elif record.text("phase", "") == "go" and record.text("for", "") == self._node.boot:
            self._arrived.put(Claim.decode(record))

    def consumer_options(self) -> Mapping[str, Any]:
        """A lone node hears of nothing from others: its own claims can come many at a time."""
        self._is_alone = self._sees_no_other()
        return UNHURRIED_FETCH if self._is_alone else {}

    def on_turn(self) -> None:
        """Starts what waits aside where there is room now. Stops counting the claims that are the reaper's: of dead
        nodes, and of this node's earlier boots."""
        if self._is_alone != self._sees_no_other():
            self.restart()
        with self._lock:
            for key, boot in list(self._delegated.items()):
                owner = ClaimKey.parse(key.encode()).boot
                if self._registry.failure_detector.is_dead(boot) or owner != self._node.boot:
                    del self._delegated[key]
        while any(self._start_waiting(head) for head in self.waiting.heads()):
            pass

    def _start_waiting(self, first: WaitingClaim) -> bool:
        """Whether the first claim of a kind waits aside no more, so that the next may have its turn."""
        claim, key = first.claim, str(first.claim.key)
        if not self._node.is_current(claim.by):  # the reaper's
            self.waiting.remove(key)
            return True
        host = self._host_with_room(first.kind)
        if host is not None:
            claim = replace(claim, for_=host.boot, node=host.node)
            self.note_claim(claim)
            self.send_go(claim)
            return True
        refusal = self._refuse_waiting(first)
        if refusal is None:
            return False
        self._end_unstarted(claim, refusal, claim.by)
        self.waiting.remove(key)
        return True

    def _refuse_waiting(self, first: WaitingClaim) -> Refusal | None:
        """Why it will not start any more: cancelled, expired, or without a node that has its kind."""
        submission = first.submission
        if first.kind not in self._registry.announced() and self._registry.is_complete():
            error = f"no node announces the kind {first.kind!r} any more"
            return Refusal(Reason.UNKNOWN_KIND, error, submission.name, submission.directory)
        return self._admission.recheck(first.claim.tasks[0], Elsewhere(submission))

    def _hosts(self, kind: str) -> list[Heartbeat]:
        """The other nodes that run the kind and take tasks."""
        beats = self._registry.failure_detector.live_heartbeats().values()
        return [b for b in beats if kind in b.kinds and b.state == "alive" and b.boot != self._node.boot]

    def _host_with_room(self, kind: str) -> Heartbeat | None:
        with self._lock:
            claims = Counter(self._delegated.values())
        beats = [b for b in self._hosts(kind) if claims[b.boot] < _CLAIMS_PER_SLOT * b.slots]
        return min(beats, key=lambda b: (claims[b.boot] + len(b.running)) / b.slots, default=None)

    def _sees_no_other(self) -> bool:
        return not self._registry.failure_detector.live_heartbeats().keys() - {self._node.boot}

    def _journal_end(self) -> dict[Place, int]:
        deadline = time.monotonic() + _JOURNAL_END_S
        topic = self._kafka.topic("tasks.running")
        while True:
            try:
                partitions = self._kafka.admin().list_topics(topic, timeout=10).topics[topic].partitions
                return end_offsets(self._kafka, self._kafka.admin(), [("tasks.running", p) for p in partitions])
            except (Retryable, KafkaException):
                if time.monotonic() > deadline:
                    raise Retryable("Kafka does not say where the journal ends") from None
                time.sleep(0.1)  # a new topic has no leader yet

    def _start_arrived(self) -> None:
        while not self._closing.is_set():
            try:
                claim = self._starting = self._arrived.get(timeout=0.1)
            except queue.Empty:
                continue
            try:
                self._wait_and_start(claim)
                self._unstartable.pop(str(claim.key), None)
            except Exception as e:
                log.exception("Claim %s could not be started, and is tried again", claim.key)
                self._unstartable[str(claim.key)] = f"{type(e).__name__}: {e}"
                self._arrived.put(claim)  # behind the others: this boot lives, so nobody else will start it
                self._closing.wait(_AGAIN_S)
            finally:
                self._starting = None

    def _wait_and_start(self, claim: Claim) -> None:
        """Starts when a slot is reserved and the control log is read: a cancel may have come before `go`."""
        while not self._slots.reserve(1):
            self._slots.wait_free(0.1)
            if self._closing.is_set():
                return
        used = False
        try:
            if self._cancellations.wait_until_read(self._cancellations.request_ends(), self._closing.is_set):
                used = self._start(claim)
        finally:
            if not used:
                self._slots.release()

    def _start(self, claim: Claim) -> bool:
        """Hands the job over; returns False when it may not start, after sending its outcome where it is ours."""
        [task] = claim.tasks
        if not self._node.is_current(claim.for_):
            return False
        decision = self._admission.judge(task)
        refusal = self._admission.recheck(task, decision) if isinstance(decision, Admitted) else decision
        if isinstance(decision, Admitted) and refusal is None:
            self._hand_over([Job(claim, task, decision.submission, decision.kind)])
            return True
        if not isinstance(refusal, Refusal):  # the kind was announced, and is not loaded any more
            refusal = Refusal(Reason.UNKNOWN_KIND, "the node that announced the kind no longer has it")
        self._end_unstarted(claim, refusal, claim.for_)
        return False

    def _end_unstarted(self, claim: Claim, refusal: Refusal, boot: str) -> None:
        outcome = refusal_outcome(claim.tasks[0], refusal, boot=boot, node=self._node.name)
        send_unstarted_outcome(self._sender, ClaimMembers(), claim, outcome)
