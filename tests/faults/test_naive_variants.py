"""Each test fails when the rule that it is named after is removed. They are named like the model's naive variants
(docs/model/check.py). Those of the storekeeper are in its own tests.
"""

import asyncio
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from agents.faust_kit.leave_groups import leave_groups
from agents.membership.death_notices import own_death_notice
from headrace.contract.cluster import Cancel
from headrace.contract.journal import Tombstone, decode_journal
from headrace.contract.lifecycle import Event
from headrace.contract.outcome import Outcome
from headrace.contract.records import Outgoing
from headrace.kafka.groups import INTAKE_GROUP
from headrace.kafka.sender import Sender
from headrace.settings import Settings
from tests.faults.processes.victim import Victim
from tests.rigs.core import Core, Log, cores, other, record


class Gate:
    """A failpoint that holds the first thread at one place until the test opens it."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._reached, self._open = threading.Event(), threading.Event()

    def __call__(self, point: str) -> None:
        if point == self._place and not self._reached.is_set():
            self._reached.set()
            assert self._open.wait(60)

    def wait(self) -> None:
        assert self._reached.wait(60), f"{self._place} was not reached"

    def open(self) -> None:
        self._open.set()


def throw_out(core: Core) -> None:
    """Removes the node from its group without its knowledge: it is a zombie now."""
    member = core.intake._consumer.membership
    assert member is not None
    asyncio.run(leave_groups(core.kafka, {INTAKE_GROUP: member[1]}))


def starts(log: Log) -> list[tuple[str, int]]:
    return [(e.id, e.attempt) for e in map(Event.decode, log.read("lifecycle.started"))]


def tombstones(log: Log) -> list[Tombstone]:
    return [t for t in map(decode_journal, log.read("tasks.running")) if isinstance(t, Tombstone)]


def test_start_before_the_commit_is_accepted(kafka_settings: Settings, sender: Sender, tmp_path: Path) -> None:
    """A zombie's commit is rejected: it starts nothing, voids its own claim, and leaves its successor's alone."""
    gate, log, task_id = Gate("before commit"), Log(kafka_settings), str(uuid.uuid4())
    zombie = Core(kafka_settings, "node-1", failpoint=gate)
    successor = Core(other(kafka_settings, tmp_path / "b"), "node-2")
    with cores(zombie):
        sender.send_all([record(task_id)])
        gate.wait()
        throw_out(zombie)
        with cores(successor):
            [job] = successor.wait_jobs(1)
            gate.open()
            while not (void := [t for t in tombstones(log) if t.why == "void"]):
                pass
            assert [t.key.boot for t in void] == [zombie.node.boot]
            assert [c.by for c in log.live_claims()] == [successor.node.boot]
            successor.end(job)
            assert zombie.jobs == []
            assert starts(log) == [(task_id, 1)]
            assert zombie.slots.used == 0


def lost_answer(core: Core, applied: bool) -> None:
    """The node's first commit gets no answer; `applied` says whether the group has accepted it."""
    real: Callable[..., bool] = core.intake._consumer.commit

    def commit(*arguments: object) -> bool:
        core.intake._consumer.commit = real  # type: ignore[method-assign]
        if applied:
            assert real(*arguments)
        return False

    core.intake._consumer.commit = commit  # type: ignore[method-assign]


def test_lost_answer_to_the_commit_taken_for_failure(kafka_settings: Settings, sender: Sender) -> None:
    core, log, task_id = Core(kafka_settings), Log(kafka_settings), str(uuid.uuid4())
    lost_answer(core, applied=True)
    with cores(core):
        sender.send_all([record(task_id)])
        [job] = core.wait_jobs(1)
        core.end(job)
        log.wait_no_claims()
    assert starts(log) == [(task_id, 1)]
    assert [t.why for t in tombstones(log)] == ["done"]


def test_lost_answer_to_the_commit_taken_for_success(kafka_settings: Settings, sender: Sender) -> None:
    core, log, task_id = Core(kafka_settings), Log(kafka_settings), str(uuid.uuid4())
    lost_answer(core, applied=False)
    with cores(core):
        sender.send_all([record(task_id)])
        [job] = core.wait_jobs(1)
        core.end(job)
        log.wait_no_claims()
        sender.send_all([record()])  # anything to be started twice has started by now
        core.wait_jobs(2)
    assert [i for i, _ in starts(log)].count(task_id) == 1
    assert next(t.why for t in tombstones(log)) == "void"
    assert log.committed()["tasks.normal", job.task.source.partition] > job.task.source.offset


def test_reaper_reads_the_journal_before_the_committed_offset(kafka_settings: Settings, sender: Sender) -> None:
    """Between the reaper's two reads another node claims and commits the dead node's record: the dead claim is void."""
    task_id, log = str(uuid.uuid4()), Log(kafka_settings)
    with Victim(kafka_settings, failpoints={"before commit": ("kill", 1)}) as victim:
        victim.wait("ready")
        sender.send_all([record(task_id)])
        victim.wait_end()
    gate = Gate("reaper between committed offset and journal")
    core = Core(kafka_settings, failpoint=gate)
    core.slots.set_open(False)
    with cores(core):
        gate.wait()
        core.slots.set_open(True)
        [job] = core.wait_jobs(1)
        gate.open()
        while not [t for t in tombstones(log) if t.why == "void"]:
            pass
        core.end(job)
    assert log.read("tasks.high") == []
    assert starts(log) == [(task_id, 1)]


def test_reaper_drops_an_uncommitted_claim_commit_still_on_its_way(
    kafka_settings: Settings, sender: Sender, tmp_path: Path
) -> None:
    """A lease error: the claim of a boot taken for dead is left alone until its commit is accepted, then sent again."""
    gate, log, task_id, looks = Gate("before commit"), Log(kafka_settings), str(uuid.uuid4()), threading.Semaphore(0)

    def looked(point: str) -> None:
        if point == "reaper between committed offset and journal":
            looks.release()

    slow = Core(kafka_settings, "node-1", failpoint=gate)
    slow.reaper.start = lambda: None  # type: ignore[method-assign]
    reaping = Core(other(kafka_settings, tmp_path / "b"), "node-2", failpoint=looked)
    reaping.intake.start = lambda: None  # type: ignore[method-assign]
    with cores(slow, reaping):
        sender.send_all([record(task_id)])
        gate.wait()
        sender.send_all([own_death_notice(slow.node, slow.node.boot).encode()])
        for _ in range(3):
            assert looks.acquire(timeout=60)
        assert log.read("tasks.high") == []
        assert len(log.live_claims()) == 1
        gate.open()
        [again] = log.wait("tasks.high", 1)
        assert (again.key, again.number("attempt")) == (task_id.encode(), 2)
        slow.wait_jobs(1)
        while "reaped" not in [t.why for t in tombstones(log)]:
            pass


def test_no_dedupe_by_id_and_attempt_same_id_twice(kafka_settings: Settings, sender: Sender) -> None:
    task_id, last = str(uuid.uuid4()), str(uuid.uuid4())
    core = Core(kafka_settings, slots=1)
    with cores(core):
        sender.send_all([record(task_id), record(task_id), record(task_id)])
        core.end(core.wait_jobs(1)[0])
        sender.send_all([record(task_id), record(last)])
        jobs = core.wait_jobs(2)
        while core.count("repeated_tasks") < 3:
            pass
    assert [j.task.id for j in jobs] == [task_id, last]
    again = Core(kafka_settings)  # the window is in the log, so a new process knows it too
    with cores(again):
        sender.send_all([record(task_id), record()])
        assert [j.task.id for j in again.wait_jobs(1)] != [task_id]


def test_no_dedupe_by_id_and_attempt_reaper_repeated(kafka_settings: Settings, sender: Sender) -> None:
    """A reaper dies between its two writes: the next one sends the same attempt again, and it runs once."""
    task_id, log = str(uuid.uuid4()), Log(kafka_settings)
    with Victim(kafka_settings) as victim:
        victim.wait("ready")
        sender.send_all([record(task_id)])
        victim.wait("job")
        victim.kill()
    with Victim(kafka_settings, slots=0, failpoints={"reaper before tombstone": ("kill", 1)}) as victim:
        victim.wait("at reaper before tombstone")
        victim.wait_end()
    core = Core(kafka_settings)
    with cores(core):
        [job] = core.wait_jobs(1)
        while len(log.read("tasks.high")) < 2:
            pass
        core.end(job)
        log.wait_no_claims()
        while core.count("repeated_tasks") < 1:
            pass
    assert [a for _, a in starts(log) if a > 1] == [2]


def test_start_without_having_read_the_control_log_to_its_end(kafka_settings: Settings, sender: Sender) -> None:
    """The control log is read slowly: a task that was cancelled before the pull still does not start."""
    core, log, task_id = Core(kafka_settings), Log(kafka_settings), str(uuid.uuid4())
    slow, reached = threading.Event(), threading.Event()

    def on_cancel(_: str) -> None:
        reached.set()
        assert slow.wait(60)

    core.cancellations.on_cancel = on_cancel
    with cores(core):
        sender.send_all([Cancel(str(uuid.uuid4())).encode()])
        assert reached.wait(60)
        sender.send_all([Cancel(task_id).encode()])
        sender.send_all([record(task_id)])
        while not log.live_claims():
            pass
        slow.set()
        [outcome] = [Outcome.decode(r) for r in log.wait("results", 1)]
        log.wait_no_claims()
        assert outcome.outcome == "cancelled"
        assert core.jobs == []
        assert core.slots.used == 0


class Withheld:
    """A sender that withholds the acknowledgement of one task's outcome."""

    def __init__(self, real: Sender, task_id: str) -> None:
        self._real, self._key = real, task_id.encode()
        self.answer: Future[tuple[str, int, int]] = Future()

    def send(self, out: Outgoing, *, unhurried: bool = False) -> "Future[tuple[str, int, int]]":
        sent = self._real.send(out, unhurried=unhurried)
        return self.answer if (out.topic, out.key) == ("results", self._key) else sent

    def deliver(self, out: Outgoing) -> "Future[tuple[str, int, int]]":
        return self._real.deliver(out)


def test_tombstone_before_the_outcome_is_acknowledged(kafka_settings: Settings, sender: Sender) -> None:
    core, log, first, second = Core(kafka_settings), Log(kafka_settings), str(uuid.uuid4()), str(uuid.uuid4())
    withheld = Withheld(core.sender, first)
    core.finisher._sender = withheld  # type: ignore[assignment]
    with cores(core):
        sender.send_all([record(first), record(second)])
        jobs = {j.task.id: j for j in core.wait_jobs(2)}
        ending = core.end_soon(jobs[first])
        log.wait("results", 1)
        core.end(jobs[second])
        while not tombstones(log):
            pass
        assert [t.key.id for t in tombstones(log)] == [second]
        withheld.answer.set_result(("results", 0, 0))
        ending.result(60)
        log.wait_no_claims()
