"""The intake: pulls tasks, claims what a free slot can start at once, commits, and hands over. PROTOCOL, steps 1 to 3.

One thread with one plain consumer; everything that belongs to the group happens in it. What is refused gets its outcome
without a slot. Ends by `drain`, or by itself when the group has lost its offsets: then `failure` says so, in words. All
else that Kafka does is waited for.
"""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaException

from agents.completion.claim_members import ClaimMembers, send_unstarted_outcome
from agents.completion.outcomes import outcome_without_result
from agents.execution.job import Job, Jobs
from agents.execution.slots import Slots
from agents.intake.admission import Admission, Admitted, Elsewhere, KindCatalog, Refusal
from agents.intake.cancellations import Cancellations
from agents.intake.claim_commit import ClaimCommit
from agents.intake.commit_batch import CommitBatch
from agents.intake.consumer import TaskConsumer
from agents.intake.delegation import Delegation
from agents.intake.micro_batching import MicroBatch, MicroBatcher, RunTimes
from agents.intake.ready_queue import Pulled, ReadyQueue
from agents.membership.identity import NodeIdentity
from headrace.contract.journal import Claim
from headrace.contract.records import Place
from headrace.contract.states import Reason
from headrace.errors import Retryable, UsageError
from headrace.kafka.client import Kafka, Sender, log_throttled
from headrace.kafka.reading import words_of
from headrace.process.failpoints import Failpoint, no_failpoint
from headrace.process.health import STALE_S, Watchdog

log = logging.getLogger(__name__)

Ends = dict[Place, Future[Any]]

_IDLE_S = 0.1  # nothing to do: how long to wait for a record
_BUSY_S = 0.05  # records wait for a slot: how often the group is served meanwhile
_ELSEWHERE_S = 0.1  # how often to ask again whether a node that announces the kind has room
_MOST_AT_ONCE = 512  # records settled in one turn


class Intake:
    """`hand_over` is called in the intake's thread, with jobs for which one slot is reserved, to be run in that order.

    `members` is shared with the finisher. `at`: see `agents.intake.claim_commit`.
    """

    def __init__(
        self,
        kafka: Kafka,
        sender: Sender,
        node: NodeIdentity,
        slots: Slots,
        kinds_view: KindCatalog,
        control: Cancellations,
        hand_over: Callable[[Jobs], None],
        failpoint: Failpoint = no_failpoint,
        delegation: Delegation | None = None,
        run_times: RunTimes | None = None,
        members: ClaimMembers | None = None,
    ) -> None:
        self._sender, self._node, self._slots, self._control = sender, node, slots, control
        self._hand_over, self._delegation, self._failpoint = hand_over, delegation, failpoint
        self._run_times, self._members = run_times or RunTimes(), members or ClaimMembers()
        self._buffer = ReadyQueue()
        self._consumer = TaskConsumer(kafka, self._buffer, node.remember_member)
        self._stopping = threading.Event()
        self._claims = ClaimCommit(kafka, sender, self._consumer, failpoint, self._stopping.is_set)
        self._admission = Admission(kinds_view, control.is_cancelled)
        self._watchdog = Watchdog("the intake")
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)
        self.failure: str | None = None
        self.repeats = 0  # records passed over by rule D
        self._left_at = float("-inf")  # when a task was last left waiting for a node that announces its kind
        self.on_failure: Callable[[str], None] = lambda _: None

    @property
    def places(self) -> list[Place]:
        """(topic, partition) of what this node owns."""
        return self._consumer.places

    @property
    def buffered(self) -> int:
        return len(self._buffer)

    @property
    def waits_for_others(self) -> bool:
        """Whether a task at the head of a partition waits for room on another node: its offset may stand still."""
        return time.monotonic() - self._left_at < 10 * _ELSEWHERE_S

    def start(self) -> None:
        self._thread.start()

    def drain(self, timeout_s: float = 15.0) -> bool:
        """Claims nothing more and leaves the group; returns whether that is done within the time."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def check(self) -> str | None:
        """For the node's health."""
        if self.failure is not None:
            return self.failure
        if self._stopping.is_set():
            return "the node is being drained"
        if self._consumer.membership is None:
            return self._watchdog.check() or "the intake is not a member of its group yet"
        if late := self._buffer.overdue(STALE_S):
            return f"{late[0]} {late[1]} has records that do not come"
        return self._watchdog.check()

    def _run(self) -> None:
        try:
            self._consumer.join()
            while not self._stopping.is_set():
                self._watchdog.beat()
                try:
                    self._turn()
                except (Retryable, KafkaException) as e:
                    words = words_of(e) if isinstance(e, KafkaException) else str(e)
                    log_throttled("intake", "The intake waits: %s", words)
                    self._stopping.wait(0.2)
        except UsageError as e:
            self._fail(str(e))
        except Exception as e:
            log.exception("The intake has failed")
            self._fail(f"the intake has failed: {type(e).__name__}: {e}")
        finally:
            self._consumer.leave()

    def _fail(self, words: str) -> None:
        self.failure = words
        log.error("The intake stops: %s", words)
        self.on_failure(words)

    def _turn(self) -> None:
        waits_for_slot = len(self._buffer) > 0 and self._buffer.next() is not None
        if waits_for_slot and not self._slots.free:
            self._slots.wait_free(_BUSY_S)
        self._consumer.fill(0.0 if waits_for_slot else _IDLE_S if not len(self._buffer) else 0.005)
        if self._consumer.membership is None:
            return
        turn = CommitBatch(self._consumer.membership, self._node.boot)
        reserved = self._slots.reserve(self._slots.total) if len(self._buffer) else 0
        used = 0
        try:
            self._sweep(turn)
            self._choose(turn, MicroBatcher(self._run_times, reserved, len(self._buffer)))
            used = len(turn.groups)
        finally:
            if reserved > used:
                self._slots.release(reserved - used)
        if not turn.is_empty:
            self._settle(turn)

    def _sweep(self, turn: CommitBatch) -> None:
        """Heads that need no slot are settled although all slots are busy."""
        for head in self._buffer.heads():
            place = head.place
            following: Pulled | None = head
            while following is not None and len(turn.settled) < _MOST_AT_ONCE:
                if not self._settled_without_slot(turn, following) and not self._left_to_others(turn, following):
                    break
                following = self._buffer.head(place)

    def _choose(self, turn: CommitBatch, chunks: MicroBatcher) -> None:
        """Takes what comes next by the merge's order, as long as there are slots."""
        while len(turn.settled) < _MOST_AT_ONCE:
            pulled = self._buffer.next()
            if pulled is None:
                break
            if self._settled_without_slot(turn, pulled):
                continue
            if isinstance(pulled.verdict, Elsewhere):
                self._left_to_others(turn, pulled)
                continue
            assert isinstance(pulled.verdict, Admitted)
            if not chunks.take(pulled, pulled.verdict):
                break
            self._take(turn, pulled)
        turn.groups = [self._jobs(turn, chunk) for chunk in chunks.made]

    def _jobs(self, turn: CommitBatch, chunk: MicroBatch) -> list[Job]:
        """With one claim for all members from the same partition."""
        tasks = defaultdict(list)
        for pulled, _ in chunk.members:
            tasks[pulled.place].append(pulled.task)
        claims = {
            place: Claim(
                tuple(of_place), by=turn.boot, for_=turn.boot, generation=turn.membership[0], node=self._node.name
            )
            for place, of_place in tasks.items()
        }
        return [Job(claims[p.place], p.task, verdict.submission, verdict.kind) for p, verdict in chunk.members]

    def _left_to_others(self, turn: CommitBatch, pulled: Pulled) -> bool:
        """Claims for a node that announces the kind; while none has room, what is behind it in its partition waits."""
        if not isinstance(pulled.verdict, Elsewhere):
            return False
        host = self._delegation.host(pulled.verdict.submission.name) if self._delegation is not None else None
        if self._delegation is None or host is None:
            self._left_at = time.monotonic()
            self._buffer.hold(pulled.place, _ELSEWHERE_S)
            return False
        self._take(turn, pulled)
        claim = Claim((pulled.task,), by=turn.boot, for_=host.boot, generation=turn.membership[0], node=host.node)
        self._delegation.handed(claim)
        turn.handed.append(claim)
        return True

    def _settled_without_slot(self, turn: CommitBatch, pulled: Pulled) -> bool:
        """Whether the record is a repeat or refused; then it is in the turn."""
        task, place = pulled.task, pulled.place
        mark = (place, task.id, task.attempt)
        if pulled.broken_headers is None and (
            mark in turn.seen or self._consumer.window(place).has_seen(task.id, task.attempt)
        ):
            self.repeats += 1
            self._take(turn, pulled)
            return True
        if pulled.verdict is None or isinstance(pulled.verdict, Elsewhere):
            pulled.verdict = self._admission.judge(task, pulled.broken_headers)
        verdict = pulled.verdict
        refused = self._admission.at_last(task, verdict) if isinstance(verdict, Admitted) else verdict
        if not isinstance(refused, Refusal):
            return False
        self._take(turn, pulled)
        turn.outcomes.append(
            outcome_without_result(
                task,
                boot=turn.boot,
                node=self._node.name,
                reason=refused.reason,
                error=refused.error,
                name=refused.name,
                directory=refused.directory,
            )
        )
        return True

    def _take(self, turn: CommitBatch, pulled: Pulled) -> None:
        self._buffer.take(pulled)
        turn.include(pulled)
        if pulled.broken_headers is None:
            turn.seen.add((pulled.place, pulled.task.id, pulled.task.attempt))

    def _settle(self, turn: CommitBatch) -> None:
        """Step 3: claims and outcomes → one commit → start. The slots of what does not start are given back."""
        control_ends: Ends = self._control.ends() if turn.groups else {}
        self._failpoint("before claim")
        sent = self._claims.write([*(c.encode() for c in turn.claims), *turn.outcomes])
        unstarted = len(turn.groups)
        try:
            if not self._claims.acknowledged(sent):
                self._claims.void_when_sent(turn.claims)
                self._consumer.seek_back(turn.starts)
                return
            held = {id(claim) for claim in self._held(turn)}
            if self._delegation is not None and self._node.is_current(turn.boot):
                for claim in turn.handed:
                    if id(claim) in held:
                        self._delegation.go(claim)
            if held and self._read_control(control_ends):
                for group in turn.groups:
                    unstarted -= self._start([job for job in group if id(job.claim) in held])
        finally:
            if unstarted:
                self._slots.release(unstarted)

    def _held(self, turn: CommitBatch) -> list[Claim]:
        """The claims that the commit has made effective."""
        held = self._claims.commit(turn.membership, turn.claims, turn.ends)
        if held is None:
            return self._claims.resolve(turn.claims)
        for t in turn.settled:
            window = self._consumer.window((t.source.topic, t.source.partition))
            window.add_task(t.id, t.attempt, t.source.offset)
        return held

    def _read_control(self, ends: Ends) -> bool:
        """Nothing starts before the control log has been read to where it ended after the pull."""
        while not self._control.caught_up(ends):
            if self._stopping.is_set():
                return False  # our claims are the reaper's, once this boot is dead
            ends = self._control.ends()
        return True

    def _start(self, group: list[Job]) -> bool:
        """Whether any of them has been handed over."""
        going = [job for job in group if self._may_start(job)]
        if going:
            self._failpoint("before start")
            self._hand_over(going)
        return bool(going)

    def _may_start(self, job: Job) -> bool:
        if not self._node.is_current(job.claim.by):
            return False  # fenced meanwhile: the claim is the reaper's
        if self._control.is_cancelled(job.task.id):
            s = job.submission
            outcome = outcome_without_result(
                job.task,
                boot=job.claim.by,
                node=self._node.name,
                reason=Reason.CANCELLED,
                error="cancelled before it started",
                name=s.name,
                directory=s.directory,
            )
            send_unstarted_outcome(self._sender, self._members, job.claim, outcome)
            return False
        return True
