"""Out-of-memory kills: an attempt that the kernel kills beside others runs again alone, and only then is charged."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from agents.execution import oom
from agents.execution.exclusive_run import WAIT_S, ExclusiveRun
from agents.execution.pool import Pool
from agents.execution.slots import Slots
from headrace.contract.states import Cause
from tests.rigs.pool import HARD, SLOTS, Bench, Kernel, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    folder = tmp_path_factory.mktemp("pool")
    pool = Pool(HARD, SLOTS, folder / "scratch", results_root=folder)
    kinds = pool.start()
    pool.listen()
    yield Bench(pool, kinds, [], folder)
    await pool.close()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Kernel:
    monkeypatch.setattr(oom, "_EVENTS", tmp_path / "memory.events")
    return Kernel(tmp_path / "memory.events")


async def pid_in(flag: Path, other_than: int = 0) -> int:
    await until(lambda: flag.exists() and flag.read_text() not in ("", str(other_than)), 30.0)
    return int(flag.read_text())  # noqa: ASYNC240


async def test_an_out_of_memory_victim_runs_again_alone_and_only_that_end_counts(
    bench: Bench, kernel: Kernel, tmp_path: Path
) -> None:
    stop, victim, late = tmp_path / "stop", tmp_path / "victim", tmp_path / "late"
    neighbour = asyncio.create_task(bench.run("waits", until=str(stop)))
    running = asyncio.create_task(bench.run("sleeps", seconds=0.5, flag=str(victim)))
    first = await pid_in(victim)
    held: list[bool] = []
    bench.pool.on_exclusive = held.append
    kernel.kills(first)
    await until(lambda: held == [True], 30.0)
    behind = asyncio.create_task(bench.run("sleeps", seconds=0.0, flag=str(late)))
    await asyncio.sleep(0)  # it asks for its lease now
    assert victim.read_text() == str(first), "it did not wait for its neighbour"
    stop.touch()
    assert (await neighbour).value == b"waited"  # no neighbour loses an attempt
    await pid_in(victim, other_than=first)
    assert not late.exists(), "another attempt ran beside the exclusive one"
    assert (await running).value == b"slept"
    assert (await behind).value == b"slept"
    assert held == [True, False]


async def test_a_victim_killed_during_its_exclusive_run_is_charged(
    bench: Bench, kernel: Kernel, tmp_path: Path
) -> None:
    stop, victim = tmp_path / "stop", tmp_path / "victim"
    neighbour = asyncio.create_task(bench.run("waits", until=str(stop)))
    running = asyncio.create_task(bench.run("sleeps", seconds=60.0, flag=str(victim)))
    first = await pid_in(victim)
    kernel.kills(first)
    stop.touch()
    assert (await neighbour).value == b"waited"
    kernel.kills(await pid_in(victim, other_than=first))
    end = await running
    assert (end.cause, end.detail) == (Cause.OUT_OF_MEMORY, "the kernel killed the process because memory ran out")
    assert (await bench.run("echo", value="on")).value == b"on"


async def test_a_victim_that_ran_beside_no_other_is_charged_at_once(
    bench: Bench, kernel: Kernel, tmp_path: Path
) -> None:
    flag = tmp_path / "pid"
    running = asyncio.create_task(bench.run("sleeps", seconds=60.0, flag=str(flag)))
    kernel.kills(await pid_in(flag))
    assert (await running).cause is Cause.OUT_OF_MEMORY


async def test_a_victim_that_waits_for_its_exclusive_run_can_be_cancelled(
    bench: Bench, kernel: Kernel, tmp_path: Path
) -> None:
    stop, victim = tmp_path / "stop", tmp_path / "victim"
    neighbour = asyncio.create_task(bench.run("waits", until=str(stop)))
    job = bench.job("sleeps", seconds=60.0, flag=str(victim))
    running = asyncio.create_task(bench.pool.run(job))
    first = await pid_in(victim)
    kernel.kills(first)
    await until(lambda: job.task.id not in {r.id for r in bench.pool.running()}, 30.0)
    assert bench.pool.cancel(job.task.id)
    stop.touch()
    assert (await neighbour).value == b"waited"
    assert (await running).detail == "cancelled"
    assert victim.read_text() == str(first)


async def test_a_victim_waits_for_its_exclusive_run_only_so_long_and_then_runs_beside_what_has_not_ended(
    bench: Bench, kernel: Kernel, tmp_path: Path
) -> None:
    stop, victim, late = tmp_path / "stop", tmp_path / "victim", tmp_path / "late"
    bench.pool._exclusive_run.wait_s = 0.5
    try:
        neighbour = asyncio.create_task(bench.run("waits", until=str(stop)))
        running = asyncio.create_task(bench.run("sleeps", seconds=60.0, flag=str(victim)))
        first = await pid_in(victim)
        held: list[bool] = []
        bench.pool.on_exclusive = held.append
        kernel.kills(first)
        await until(lambda: bool(bench.pool.waits()), 30.0)
        [wait] = bench.pool.waits()
        assert (wait.why, wait.name) == ("alone", "sleeps")
        assert "waits 0.5 s at most for 1 to end" in wait.text
        second = await pid_in(victim, other_than=first)
        assert not neighbour.done()
        behind = asyncio.create_task(bench.run("sleeps", seconds=0.0, flag=str(late)))
        await until(lambda: "runs again" in bench.pool.waits()[0].text, 30.0)
        kernel.kills(second)
        end = await running
        assert end.cause is Cause.OUT_OF_MEMORY
        assert end.detail.endswith(
            "it could not run alone, because 1 of the attempts beside it had not ended after 0.5 s"
        )
        assert (await behind).value == b"slept"  # the node goes on while the neighbour still runs
        assert not neighbour.done()
        assert (held, bench.pool.waits()) == ([True, False], [])
    finally:
        bench.pool._exclusive_run.wait_s = WAIT_S
        stop.touch()
    assert (await neighbour).value == b"waited"


async def test_two_victims_run_alone_one_after_the_other(bench: Bench) -> None:
    run, jobs = ExclusiveRun(lambda _: None, wait_s=30.0), (bench.job("echo"), bench.job("echo"))
    shared = await run.acquire()
    asked = [asyncio.create_task(run.acquire(job)) for job in jobs]
    await until(lambda: len(run.waits()) == 2)
    shared.release()
    first = await asked[0]
    behind = asyncio.create_task(run.acquire())
    assert [("runs again" in w.text) for w in run.waits()] == [True, False]
    first.release()
    second = await asked[1]
    assert not behind.done()
    assert (first.ran_beside_others, second.ran_beside_others) == (False, False)
    second.release()
    assert not (await behind).ran_beside_others


@pytest.mark.parametrize(
    "text",
    [
        "low 0\nhigh 3\nmax 7\noom 4\noom_kill 2\noom_group_kill 0\n",  # cgroup v2, memory.events
        "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",  # cgroup v1, memory.oom_control
    ],
)
async def test_the_kernels_count_is_read_in_both_of_its_formats(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    monkeypatch.setattr(oom, "_EVENTS", tmp_path / "events")
    (tmp_path / "events").write_text(text)
    assert oom.oom_kills() == 2


async def test_no_slot_can_be_reserved_while_an_attempt_is_to_run_alone() -> None:
    slots = Slots(2)
    slots.set_open(True)
    slots.hold(True)
    assert (slots.free, slots.reserve(1), slots.wait_free(0)) == (0, 0, False)
    slots.hold(False)
    assert (slots.free, slots.reserve(5)) == (2, 2)
