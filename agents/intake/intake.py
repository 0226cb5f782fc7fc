"""The intake: pulls tasks, claims as many as free slots can start at once, commits, and hands over.

Steps 1 to 3 of the protocol (docs/protocol.md), in one thread with one plain consumer, where everything about the
consumer group happens. A refused task gets its outcome without a slot. The thread ends by `drain`, or by an error, such
as lost offsets of the group: then `failure` has the message. It waits through all outages of Kafka.
"""

import logging
import threading
from collections.abc import Callable

from confluent_kafka import KafkaException

from headrace.contract.journal import Claim
from headrace.contract.records import Place
from headrace.errors import Refused, Retryable, UsageError
from headrace.kafka.client import Kafka
from headrace.kafka.reading import error_text
from headrace.kafka.sender import Sender
from headrace.process.failpoints import Failpoint, no_failpoint
from headrace.process.health import STALE_S, Watchdog
from headrace.process.throttled_log import log_throttled

from ..completion.claim_members import ClaimMembers
from ..execution.job import Jobs
from ..execution.slots import Slots
from ..membership.identity import NodeIdentity
from ..monitoring.protocol_metrics import ProtocolMetrics
from .admission import Admission, Admitted, Elsewhere, KindCatalog, Refusal, refusal_outcome
from .cancellations import Cancellations
from .claim_commit import ClaimCommit
from .commit_batch import CommitBatch
from .consumer import TaskConsumer
from .delegation import Delegation
from .epochs import Epochs
from .foreign_heads import RETRY_S, ForeignHeads
from .job_starter import JobStarter, LogEnds
from .micro_batching import MicroBatcher, RunTimes
from .ready_queue import Pulled, ReadyQueue

log = logging.getLogger(__name__)

_IDLE_S = 0.1  # nothing is queued: how long to wait for a record
_QUEUED_S = 0.005  # records are queued, and none may leave yet
_BUSY_S = 0.05  # records wait for a slot: how often the group is served meanwhile
_REFUSED_S = 2.0  # Kafka refuses claims or outcomes: the same turn again would meet the same
_MAX_RECORDS = 512  # settled by one commit


class Intake:
    """`on_failure` is called with the message of the error that ends the thread; set it before `start`."""

    def __init__(
        self,
        kafka: Kafka,
        sender: Sender,
        node: NodeIdentity,
        *,
        slots: Slots,
        registry: KindCatalog,
        cancellations: Cancellations,
        hand_over: Callable[[Jobs], None],
        hand_over_lost: Callable[[Jobs, str], None],
        failpoint: Failpoint = no_failpoint,
        delegation: Delegation | None = None,
        run_times: RunTimes | None = None,
        members: ClaimMembers | None = None,
        metrics: ProtocolMetrics | None = None,
        aside_s: float = 5.0,
    ) -> None:
        """`hand_over` is called in the intake's thread, with jobs for one reserved slot, to be run in that order;
        `hand_over_lost` with jobs that have no slot, and why they are lost.

        `members` is shared with the finisher. Without `delegation` tasks of other nodes' kinds are left waiting; with
        it they hold up others for `aside_s` at most.
        """
        self._node, self._slots, self._cancellations = node, slots, cancellations
        self._delegation, self._failpoint = delegation, failpoint
        self._run_times, self._metrics = run_times or RunTimes(), metrics or ProtocolMetrics()
        self._queue = ReadyQueue()
        self._consumer = TaskConsumer(kafka, self._queue, node.remember_member)
        self._stopping = threading.Event()
        is_stopping = self._stopping.is_set
        self._claims = ClaimCommit(
            kafka, sender, self._consumer, failpoint=failpoint, is_stopping=is_stopping, metrics=self._metrics
        )
        self._epochs = Epochs(self._claims, self._consumer, failpoint)
        self._starter = JobStarter(
            sender,
            node,
            cancellations=cancellations,
            members=members or ClaimMembers(),
            hand_over=hand_over,
            hand_over_lost=hand_over_lost,
            failpoint=failpoint,
            is_stopping=is_stopping,
        )
        self._admission = Admission(registry, cancellations.is_cancelled)
        self._watchdog = Watchdog("the intake")
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)
        self.foreign_heads = ForeignHeads(delegation, aside_s)
        self._in_hand: tuple[Claim, ...] = ()  # the claims of this turn
        self.failure: str | None = None
        self.on_failure: Callable[[str], None] = lambda _: None

    @property
    def places(self) -> list[Place]:
        """The partitions that this node owns."""
        return self._consumer.places

    def held(self) -> list[Claim]:
        """The claims that are being made, committed or taken back; from any thread."""
        return [*self._in_hand, *self._claims.held()]

    def start(self) -> None:
        self._thread.start()

    def drain(self, timeout_s: float = 15.0) -> bool:
        """Claims nothing more and leaves the group; returns whether that is done within the time."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def check(self) -> str | None:
        """For the node's health: what is wrong, or None."""
        if self.failure is not None:
            return self.failure
        if self._stopping.is_set():
            return "the node is being drained"
        if self._consumer.membership is None:
            return self._watchdog.check() or self._consumer.check()
        if waiting := self._claims.check():
            return waiting
        if late := self._queue.overdue_partition(STALE_S):
            return f"records of {late[0]}, partition {late[1]}, do not arrive"
        return self._watchdog.check()

    def _run(self) -> None:
        try:
            self._consumer.join()
            while not self._stopping.is_set():
                self._watchdog.beat()
                try:
                    self._take_turn()
                except (Retryable, KafkaException) as e:
                    words = error_text(e) if isinstance(e, KafkaException) else str(e)
                    log_throttled("intake", "The intake waits: %s", words)
                    self._stopping.wait(_REFUSED_S if isinstance(e, Refused) else 0.2)
        except UsageError as e:
            self._fail(str(e))
        except Exception as e:
            log.exception("The intake has failed")
            self._fail(f"the intake has failed: {type(e).__name__}: {e}")
        finally:
            self._consumer.leave()

    def _fail(self, message: str) -> None:
        self.failure = message
        log.error("The intake stops: %s", message)
        self.on_failure(message)

    def _take_turn(self) -> None:
        """Fills the queue, chooses what to settle, and settles it by one commit."""
        if not self._claims.settle_unanswered():
            self._consumer.fill_queue(_BUSY_S)  # only to serve the group
            return
        waits_for_slot = self._queue.next_record() is not None
        if waits_for_slot and not self._slots.free:
            self._slots.wait_free(_BUSY_S)
        self._consumer.fill_queue(0.0 if waits_for_slot else _QUEUED_S if len(self._queue) else _IDLE_S)
        if (membership := self._consumer.membership) is None:
            return
        boot = self._node.boot
        batch = CommitBatch(membership, boot, self._epochs.begin(membership, boot, self._queue.first_offsets()))
        try:
            self._settle(batch)
        except (Retryable, KafkaException):
            if not batch.is_given_back:  # its records have left the queue: the next commit would pass them over
                self._consumer.rejoin_soon()
            raise

    def _settle(self, batch: CommitBatch) -> None:
        """Takes records into the batch and settles them by one commit."""
        reserved = self._slots.reserve(self._slots.total) if len(self._queue) else 0
        used = 0
        try:
            self._settle_heads(batch)
            self._fill_slots(batch, MicroBatcher(self._run_times, reserved, len(self._queue)))
            used = len(batch.groups)
        finally:
            if reserved > used:
                self._slots.release(reserved - used)
        batch.ends |= self._queue.uncommitted_ends()
        if not batch.is_empty:
            self._commit_and_start(batch)

    def _settle_heads(self, batch: CommitBatch) -> None:
        """Settles the records at the heads of partitions that need no slot, also while all slots are busy."""
        for head in self._queue.heads():
            following: Pulled | None = head
            while following is not None and len(batch.tasks) < _MAX_RECORDS:
                if not self._settle_without_slot(batch, following) and not self._delegate(batch, following):
                    break
                following = self._queue.head(head.place)

    def _fill_slots(self, batch: CommitBatch, batcher: MicroBatcher) -> None:
        """Takes records in the queue's order, as long as there are slots for them."""
        while len(batch.tasks) < _MAX_RECORDS:
            pulled = self._queue.next_record()
            if pulled is None:
                break
            if self._settle_without_slot(batch, pulled):
                continue
            if isinstance(pulled.decision, Elsewhere):
                self._delegate(batch, pulled)
                continue
            assert isinstance(pulled.decision, Admitted)
            if not batcher.place_task(pulled, pulled.decision):
                break
            self._include(batch, pulled)
        batch.groups = [batch.claimed_jobs(micro_batch, self._node.name) for micro_batch in batcher.batches]

    def _delegate(self, batch: CommitBatch, pulled: Pulled) -> bool:
        """Claims a task of another node's kind, or lets its partition wait."""
        if not isinstance(pulled.decision, Elsewhere):
            return False
        claim = self.foreign_heads.claim(batch, pulled, pulled.decision)
        if claim is None:
            self._queue.hold_partition(pulled.place, RETRY_S)
            return False
        self._include(batch, pulled)
        batch.delegated.append(claim)
        return True

    def _settle_without_slot(self, batch: CommitBatch, pulled: Pulled) -> bool:
        """Includes a repeat or a refused task in the batch; returns False for any other."""
        task = pulled.task
        if pulled.header_error is None and (
            batch.has_seen(pulled) or self._consumer.window_of(pulled.place).has_seen(task.id, task.attempt)
        ):
            self._metrics.repeated_tasks.inc()
            self._include(batch, pulled)
            return True
        if pulled.decision is None or isinstance(pulled.decision, Elsewhere):
            pulled.decision = self._admission.judge(task, pulled.header_error)
        decision = pulled.decision
        refusal = decision if isinstance(decision, Refusal) else self._admission.recheck(task, decision)
        if not isinstance(refusal, Refusal):
            return False
        self._include(batch, pulled)
        batch.outcomes.append(refusal_outcome(task, refusal, boot=batch.boot, node=self._node.name))
        return True

    def _include(self, batch: CommitBatch, pulled: Pulled) -> None:
        self._queue.remove(pulled)
        batch.add_record(pulled)

    def _commit_and_start(self, batch: CommitBatch) -> None:
        """Claims and outcomes → one commit → start. Gives back the slots of the groups that do not start."""
        unstarted, self._in_hand = len(batch.groups), tuple(batch.claims)
        try:
            control_ends: LogEnds = self._cancellations.request_ends() if batch.groups else {}
            self._failpoint("before claim")
            sent = self._claims.send_records([*(c.encode() for c in batch.claims), *batch.outcomes])
            if not self._claims.wait_acknowledged(sent):
                refused = self._claims.void_unacknowledged(batch.claims, sent)
                self._consumer.seek_back(batch.starts)
                batch.is_given_back = True
                if refused is not None:
                    raise refused
                return
            unstarted -= self._start_effective(batch, control_ends)
        finally:
            self._in_hand = ()
            if self._delegation is not None:
                self._delegation.waiting.remove_uncommitted(batch.delegated)
            if unstarted:
                self._slots.release(unstarted)

    def _start_effective(self, batch: CommitBatch, control_ends: LogEnds) -> int:
        """Commits and starts; returns how many groups start. The claims are made: an error ends this node's boot, and
        then the reaper judges them."""
        try:
            effective = {id(claim) for claim in self._commit(batch)}
            if self._delegation is not None and self._node.is_current(batch.boot):
                for claim in batch.delegated:
                    if id(claim) in effective:
                        self._delegation.start_or_wait(claim)
        except (Retryable, KafkaException) as e:
            raise RuntimeError(f"claims stay in doubt: {e}") from e
        groups = [[job for job in group if id(job.claim) in effective] for group in batch.groups]
        return self._starter.start_groups(groups, control_ends) if effective else 0

    def _commit(self, batch: CommitBatch) -> list[Claim]:
        """The claims that the commit has made effective."""
        effective = self._claims.commit(batch.membership, batch.claims, batch.ends)
        if effective is None:
            return self._claims.resolve(batch.membership, batch.claims)
        self._queue.mark_committed(batch.ends)
        for task in batch.tasks:
            window = self._consumer.window_of((task.source.topic, task.source.partition))
            window.add_task(task.id, task.attempt, task.source.offset)
        return effective
