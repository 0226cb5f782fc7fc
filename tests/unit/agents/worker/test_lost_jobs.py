"""Whatever fails between a job's hand-over and its end, each job of the slot ends once and the slot is free again."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio

from agents.execution.attempt import Attempt
from agents.execution.child import Child
from agents.execution.cleanup import Cleanup
from agents.execution.exclusive_run import ExclusiveRun
from agents.execution.in_flight import InFlight
from agents.execution.job import AttemptEnd, Job
from agents.execution.output import AttemptOutput
from agents.execution.pool import Pool
from agents.execution.slot import PoolSlot
from agents.execution.slot_health import SlotHealth
from agents.execution.slots import Slots
from agents.intake.micro_batching import RunTimes
from agents.monitoring.stats import NodeStats
from agents.worker import agent
from agents.worker.agent import Worker
from headrace.contract.states import Cause
from tests.rigs.pool import HARD, SLOTS, Bench, alive, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Ends:
    """A finisher that notes what it is told; `trouble` is what the next calls of `finish` raise."""

    ended: list[tuple[Job, AttemptEnd]] = field(default_factory=list)
    trouble: list[Exception] = field(default_factory=list)

    def started(self, job: Job) -> None: ...

    async def finish(self, job: Job, end: AttemptEnd) -> None:
        if self.trouble:
            raise self.trouble.pop()
        self.ended.append((job, end))

    async def finish_completed(self, ended: Sequence[tuple[Job, AttemptEnd]]) -> Sequence[tuple[Job, AttemptEnd]]:
        return ended  # all are left to `finish`


class Control:
    """A cancellations' file that can be broken."""

    def is_cancelled(self, _task_id: str) -> bool:
        return False


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    folder = tmp_path_factory.mktemp("pool")
    pool = Pool(HARD, SLOTS, folder / "scratch", results_root=folder)
    kinds = pool.start()
    pool.listen()
    yield Bench(pool, kinds, [], folder)
    await pool.close()


class Node:
    def __init__(self, bench: Bench) -> None:
        self.slots, self.ends, control = Slots(SLOTS), Ends(), Control()
        self.slots.set_open(True)
        self.worker = Worker(
            self.slots, bench.pool, self.ends, NodeStats(), is_cancelled=lambda i: control.is_cancelled(i)
        )

    def run(self, *jobs: Job) -> None:
        assert self.slots.reserve(1) == 1
        self.worker.start(jobs)

    async def until_idle(self, ends: int) -> None:
        await until(lambda: len(self.ends.ended) >= ends and not self.slots.used and not self.worker.held(), 60.0)


def fails_at(monkeypatch: pytest.MonkeyPatch, where: type, name: str, call: int, error: Exception) -> Callable[[], int]:
    """The `call`-th call of that method raises `error`; returns how often it was called."""
    method, calls = getattr(where, name), [0]

    def failing(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            raise error
        return method(*arguments, **named)

    monkeypatch.setattr(where, name, failing)
    return lambda: calls[0]


FULL = OSError(28, "No space left on device")
STEPS = [  # in the order in which an attempt meets them
    (SlotHealth, "wait_healthy", RuntimeError("no event loop")),
    (ExclusiveRun, "acquire", RuntimeError("no lease")),
    (Control, "is_cancelled", sqlite3.DatabaseError("database disk image is malformed")),
    (Ends, "started", ValueError("cannot be encoded")),
    (AttemptOutput, "take_tail", FULL),
    (PoolSlot, "make_directory", FULL),
    (InFlight, "add_running", RuntimeError("no room")),
    (PoolSlot, "ready_child", BlockingIOError(11, "Resource temporarily unavailable")),
    (Attempt, "_request", ValueError("cannot be encoded")),
    (Child, "run_attempt", BrokenPipeError(32, "Broken pipe")),
    (Attempt, "_end_by_answer", ValueError("cannot be decoded")),
    (Attempt, "_end_processes", OSError(5, "Input/output error")),
    (Cleanup, "keep_log", ValueError("no such log")),
    (NodeStats, "count_attempt", ValueError("no such label")),
    (RunTimes, "add_run", ValueError("no such kind")),
    (Cleanup, "clean_up", RuntimeError("no clean-up")),
    (Ends, "finish", sqlite3.OperationalError("disk I/O error")),
]


@pytest.mark.parametrize(("where", "name", "error"), STEPS, ids=[f"{w.__name__}.{n}" for w, n, _ in STEPS])
async def test_an_error_at_any_step_costs_no_job_of_the_slot_its_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, where: type, name: str, error: Exception
) -> None:
    node = Node(bench)
    calls = fails_at(monkeypatch, where, name, 2, error)
    jobs = [bench.job("echo", value=value) for value in "abcd"]
    node.run(*jobs)
    await node.until_idle(4)
    assert calls() >= 2, "the step was not taken"
    assert sorted(job.task.id for job, _ in node.ends.ended) == sorted(job.task.id for job in jobs)
    assert {end.cause for _, end in node.ends.ended} <= {None, Cause.NODE_LOSS}
    assert sum(end.cause is None for _, end in node.ends.ended) >= 3, "only the job that met the error is sent again"
    assert (bench.pool.held(), bench.pool.running()) == (set(), ())
    node.run(bench.job("echo", value="on"))
    await node.until_idle(5)
    assert node.ends.ended[-1][1].value == b"on"


async def test_a_step_that_keeps_failing_ends_every_job_as_lost(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(bench)

    def broken(_control: Control, _task_id: str) -> bool:
        raise sqlite3.DatabaseError("database disk image is malformed")

    monkeypatch.setattr(Control, "is_cancelled", broken)
    node.run(*(bench.job("echo", value=value) for value in "abcd"))
    await node.until_idle(4)
    assert [(end.cause, end.begun) for _, end in node.ends.ended] == [(Cause.NODE_LOSS, False)] * 4
    assert "database disk image is malformed" in node.ends.ended[0][1].detail


async def test_an_end_that_cannot_be_reported_is_reported_until_it_is_and_readiness_says_so(bench: Bench) -> None:
    node = Node(bench)
    node.ends.trouble = [sqlite3.OperationalError("disk I/O error")] * 3
    job = bench.job("echo", value="a")
    node.run(job)
    await until(lambda: node.worker.check() is not None, 60.0)
    said = node.worker.check()
    assert said == (
        f"ends of attempts cannot be reported (1, such as that of task {job.task.id}): OperationalError: disk I/O error"
    )
    await node.until_idle(1)
    assert [(end.cause, end.begun) for _, end in node.ends.ended] == [(Cause.NODE_LOSS, True)]
    assert node.worker.check() is None


async def test_a_job_whose_run_is_cancelled_is_sent_again_when_its_processes_are_dead(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "_SLOW_MEMBER_S", 3600.0)  # the second job stays where it is
    node = Node(bench)
    node.run(bench.job("sleeps", seconds=60.0), bench.job("echo", value="waits behind it"))
    await until(lambda: any(attempt.pids for attempt in bench.pool._in_flight.attempts()), 60.0)
    pids = {pid for attempt in bench.pool._in_flight.attempts() for pid in attempt.pids}
    alive_at_report: set[int] = set()

    async def finish(job: Job, end: AttemptEnd) -> None:
        alive_at_report.update(pid for pid in pids if alive(pid))
        node.ends.ended.append((job, end))

    node.ends.finish = finish  # type: ignore[method-assign]
    for running in list(node.worker._running):
        running.cancel()
    await node.until_idle(2)
    assert {(end.cause, end.begun) for _, end in node.ends.ended} == {(Cause.NODE_LOSS, True), (Cause.NODE_LOSS, False)}
    assert pids
    assert not alive_at_report
