"""The pool with real children: every way in which an attempt can end, and what remains afterwards."""

import asyncio
import contextlib
import os
import pickle
import signal
import struct
import subprocess
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio

from agents.execution.child import Child
from agents.execution.job import AttemptEnd
from agents.execution.pool import Pool
from agents.execution.slot import PoolSlot
from headrace.child.process_tree import anonymous_bytes, processes, start_time
from headrace.child.protocol import DescribeKinds, pack_frame
from headrace.contract.progress import Progress
from headrace.contract.records import Source
from headrace.contract.states import Cause
from headrace.errors import UsageError
from headrace.storage.attempt_log import LOG_BYTES, log_file
from tests.rigs.pool import HARD, SLOTS, Bench, alive, until

# One of each sort of variable to hide: ours, Kafka's and a database's.
SECRETS = (
    "HEADRACE_API_KEYS",
    "KAFKA_PASSWORD",
    "SASL_JAAS_CONFIG",
    "SPRING_BOOTSTRAP_SERVERS",
    "MYSQL_PWD",
    "MARIADB_ROOT_PASSWORD",
    "DATABASE_URL",
    "DB_PASSWORD",
    "db_password",
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    folder, results = tmp_path_factory.mktemp("pool"), tmp_path_factory.mktemp("results")
    progress: list[Progress] = []
    os.environ |= dict.fromkeys(SECRETS, "a-secret")
    pool = Pool(HARD, SLOTS, folder / "scratch", results_root=results)
    kinds = pool.start()
    pool.listen(progress.append)
    yield Bench(pool, kinds, progress, results)
    await pool.close()
    for name in SECRETS:
        del os.environ[name]
    assert not (folder / "scratch").exists()


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_value_comes_back_with_content_type_and_suffix(bench: Bench) -> None:
    end = await bench.run("echo", value="hello")
    assert (end.cause, end.value, end.suffix) == (None, b"hello", ".txt")
    assert end.content_type == "text/plain; charset=utf-8"
    assert 0 < end.started_ms <= end.ended_ms


async def test_an_attempt_takes_what_its_child_measures_however_busy_the_nodes_loop_is(bench: Bench) -> None:
    await bench.run("echo", value="hello")  # whatever is only done once
    running = asyncio.create_task(bench.run("echo", value="hello"))
    for _ in range(3):
        await asyncio.sleep(0)  # the request is on its way
    time.sleep(1.0)  # noqa: ASYNC251 - the loop sees the answer a second late
    end = await running
    assert 0 < end.took_s < 0.9


async def test_what_an_attempt_takes_includes_its_own_run_time(bench: Bench) -> None:
    assert (await bench.run("sleeps", seconds=0.2)).took_s >= 0.2


async def test_each_attempt_has_a_process_of_its_own_below_the_slots_child(bench: Bench) -> None:
    found = [await bench.who() for _ in range(4)]
    assert len({who["pid"] for who in found}) == 4
    assert {who["parent"] for who in found} <= {slot.child.pid for slot in bench.pool._slots}


async def test_a_runner_leads_a_session_of_its_own(bench: Bench) -> None:
    who = await bench.who()
    assert who["session"] == who["pid"]


async def test_children_see_neither_secrets_nor_the_nodes_modules(bench: Bench) -> None:
    environment = (await bench.run("environment")).value or b""
    assert b"a-secret" not in environment
    assert b"PATH" in environment
    loaded = set(orjson.loads((await bench.run("modules")).value or b""))
    assert "headrace.child.attempt" in loaded
    assert not loaded & {"agents", "confluent_kafka", "faust", "pytest", "_pytest", "psutil"}, loaded & {
        "agents",
        "pytest",
    }


async def test_a_big_result_stays_in_a_file(bench: Bench) -> None:
    end = await bench.run("many_bytes", size=5_000_000)
    assert end.value is None
    assert end.result_file is not None
    assert end.result_file.stat().st_size == 5_000_000
    end.result_file.unlink()


async def test_copies_of_one_attempt_from_two_places_run_at_once_and_keep_apart(bench: Bench) -> None:
    one, other = bench.job("many_bytes", size=200_000), bench.job("many_bytes", size=300_000)
    other = replace(other, task=replace(one.task, source=Source("tasks.normal", 1, 0)))
    ends = await asyncio.gather(bench.pool.run(one), bench.pool.run(other))
    files = [end.result_file for end in ends if end.result_file is not None]
    assert [file.stat().st_size for file in files] == [200_000, 300_000]
    for file in files:
        file.unlink()


async def test_a_path_in_scratch_is_the_result_and_the_scratch_is_removed(bench: Bench) -> None:
    end = await bench.run("file_in_scratch")
    assert end.result_file is not None
    assert (end.result_file.read_text(), end.suffix) == ("a,b\n", ".csv")
    end.result_file.unlink()
    slots = end.result_file.parent.parent
    await until(lambda: not list(slots.glob("slot-*/*-1-*")))


@pytest.mark.parametrize("kind", ["file_elsewhere", "link_elsewhere"])
async def test_a_path_outside_scratch_is_refused(bench: Bench, kind: str) -> None:
    end = await bench.run(kind)
    assert (end.cause, end.permanent) == (Cause.ERROR, True)
    assert "is not a file in the attempt's scratch directory" in end.detail


async def test_a_result_that_is_not_json_is_an_error_that_says_so(bench: Bench) -> None:
    end = await bench.run("no_json")
    assert end.cause is Cause.ERROR
    assert "a value of type object, which has no JSON form" in end.detail
    assert end.permanent


async def test_an_error_carries_the_last_lines_of_its_traceback(bench: Bench) -> None:
    end = await bench.run("raises", message="too bad")
    assert (end.cause, end.invalid) == (Cause.ERROR, False)
    assert end.detail.endswith("ValueError: too bad")
    assert "hard_tasks.py" in end.detail


async def test_a_payload_that_does_not_fit_is_invalid(bench: Bench) -> None:
    end = await bench.run("echo", value=3)
    assert (end.cause, end.invalid) == (Cause.ERROR, True)
    assert end.detail.startswith("/payload/value")


async def test_the_node_never_unpickles_what_a_task_raised(bench: Bench) -> None:
    end = await bench.run("hostile_error")
    assert end.cause is Cause.ERROR
    assert "Hostile" in end.detail
    assert not os.path.exists("/tmp/headrace-hostile-reduce")  # noqa: ASYNC240


async def test_an_error_that_cannot_be_formatted_ends_its_attempt_and_not_the_child(bench: Bench) -> None:
    end = await bench.run("indescribable_error")
    assert (end.cause, end.detail) == (
        Cause.ERROR,
        "Indescribable: the error's text could not be formatted",
    )


class Evil:
    def __reduce__(self) -> Any:
        return (os.system, ("touch /tmp/headrace-hostile-reduce",))


EVIL = pickle.dumps(Evil())


@pytest.mark.parametrize(
    "words",
    [
        b"\0" * 64,
        b"\xff" * 64,
        EVIL,
        struct.pack("!II", len(EVIL), 0) + EVIL,
        pack_frame(DescribeKinds(b"[]"))[:-1] + b"\1" * 99,
    ],
)
async def test_a_child_that_sends_an_invalid_answer_is_killed_and_the_detail_says_so(
    bench: Bench, words: bytes
) -> None:
    end = await bench.run("speaks_to_the_node", words=words.hex())
    assert end.cause is Cause.PROCESS_DEATH
    assert end.detail.startswith("the process sent an invalid answer")
    assert not os.path.exists("/tmp/headrace-hostile-reduce")  # noqa: ASYNC240
    assert (await bench.run("echo", value="on")).value == b"on"


async def test_an_answer_with_a_field_of_the_wrong_type_is_invalid(bench: Bench) -> None:
    forged = orjson.dumps(
        [
            "Ended",
            False,
            {"ok": True, "content_type": 7, "suffix": "", "invalid": False, "out_of_memory": False, "error": ""},
        ]
    )
    end = await bench.run("speaks_to_the_node", words=(struct.pack("!II", len(forged), 0) + forged).hex())
    assert "content_type is int" in end.detail


async def test_each_job_of_a_micro_batch_has_its_own_end(bench: Bench) -> None:
    jobs = [
        bench.job("echo", value="a"),
        bench.job("raises", message="b"),
        bench.job("dies_of", number=9),
        bench.job("ignores_sigterm", timeout_s=0.2),
        bench.job("echo", value=3),
        bench.job("who"),
    ]
    ends: dict[str, AttemptEnd] = {}
    await bench.pool.run_all(deque(jobs), lambda _: True, lambda job, end: ends.update({job.task.id: end}))
    a, b, dead, late, invalid, who = (ends[job.task.id] for job in jobs)
    assert list(ends) == [job.task.id for job in jobs]
    assert (a.value, b.cause, dead.detail) == (b"a", Cause.ERROR, "killed by SIGKILL")
    assert (late.cause, invalid.invalid, who.cause) == (Cause.TIMEOUT, True, None)


async def test_jobs_whose_turn_has_not_come_can_be_cancelled_or_moved(bench: Bench, tmp_path: Path) -> None:
    flag = tmp_path / "pid"
    slow, cancelled, taken = bench.job("sleeps", seconds=0.5, flag=str(flag)), bench.job("who"), bench.job("who")
    jobs, ends = deque([slow, cancelled, taken]), {}
    running = asyncio.create_task(
        bench.pool.run_all(jobs, lambda _: True, lambda job, end: ends.update({job.task.id: end}))
    )
    await until(flag.exists)
    assert list(jobs) == [cancelled, taken]
    assert bench.pool.cancel(cancelled.task.id)
    jobs.remove(taken)
    await running
    assert ends[slow.task.id].value == b"slept"
    assert (ends[cancelled.task.id].detail, ends[cancelled.task.id].begun) == ("cancelled", False)
    assert taken.task.id not in ends


@pytest.mark.parametrize(
    ("kind", "payload", "said"), [("leaves", {"code": 3}, "SystemExit: 3"), ("interrupts", {}, "KeyboardInterrupt")]
)
async def test_sys_exit_ends_the_attempt_and_not_the_child(
    bench: Bench, kind: str, payload: dict[str, int], said: str
) -> None:
    end = await bench.run(kind, **payload)
    assert end.cause is Cause.ERROR
    assert end.detail.endswith(said)


@pytest.mark.parametrize("code", [0, 7])
async def test_exiting_the_process_is_a_process_death(bench: Bench, code: int) -> None:
    end = await bench.run("exits", code=code)
    assert (end.cause, end.detail) == (Cause.PROCESS_DEATH, f"the process exited with code {code}")
    assert (await bench.run("echo", value="on")).value == b"on"


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGTERM, "SIGTERM"), (40, "signal 40"), (signal.SIGRTMIN, "SIGRTMIN")]
)
async def test_a_death_of_any_signal_is_a_process_death_that_names_it(bench: Bench, number: int, name: str) -> None:
    end = await bench.run("dies_of", number=int(number))
    assert (end.cause, end.detail) == (Cause.PROCESS_DEATH, f"killed by {name}")
    assert bench.pool.check() is None


async def test_a_killed_child_is_reported_at_once_and_replaced_soon(bench: Bench, tmp_path: Path) -> None:
    flag = tmp_path / "pid"
    running = asyncio.create_task(bench.run("sleeps", seconds=60.0, flag=str(flag)))
    await until(lambda: flag.exists() and flag.read_text() != "")
    killed = time.monotonic()
    os.kill(int(flag.read_text()), signal.SIGKILL)
    end = await running
    reported_s = time.monotonic() - killed
    await asyncio.gather(*(bench.run("echo", value="on") for _ in range(SLOTS)))
    assert (end.cause, end.detail) == (Cause.PROCESS_DEATH, "killed by SIGKILL")
    assert reported_s < 10.0  # far below the time limit; 0.1 s where the machine has time for it


async def test_a_crash_in_native_code_names_its_signal_and_its_line(bench: Bench) -> None:
    job = bench.job("segfaults")
    end = await bench.pool.run(job)
    assert (end.cause, end.detail) == (Cause.PROCESS_DEATH, "killed by SIGSEGV")
    assert b"in segfaults" in log_file(bench.results, job.task.id, 1).read_bytes()


async def test_the_neighbour_of_a_dying_child_goes_on(bench: Bench) -> None:
    neighbour = asyncio.create_task(bench.run("sleeps", seconds=1.0))
    for _ in range(2):
        assert (await bench.run("dies_of", number=9)).cause is Cause.PROCESS_DEATH
    assert (await neighbour).value == b"slept"


async def test_all_children_killed_at_once_are_replaced(bench: Bench, tmp_path: Path) -> None:
    flags = [tmp_path / str(n) for n in range(SLOTS)]
    running = [asyncio.create_task(bench.run("sleeps", seconds=60.0, flag=str(f))) for f in flags]
    await until(lambda: all(f.exists() and f.read_text() for f in flags))
    for f in flags:
        os.kill(int(f.read_text()), signal.SIGKILL)
    assert {(await r).cause for r in running} == {Cause.PROCESS_DEATH}
    assert {(await bench.run("echo", value="on")).value for _ in range(4)} == {b"on"}


async def test_a_dead_runner_costs_no_new_child(bench: Bench) -> None:
    before = {slot.child.pid for slot in bench.pool._slots}
    for number in (9, 11):
        assert (await bench.run("dies_of", number=number)).cause is Cause.PROCESS_DEATH
    assert (await bench.run("limited")).cause is Cause.TIMEOUT
    assert {slot.child.pid for slot in bench.pool._slots} == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_task_that_kills_or_stops_its_child_is_charged_and_the_child_replaced(
    bench: Bench, number: int
) -> None:
    end = await bench.run("signals_its_child", number=int(number), timeout_s=0.5)
    assert end.cause is (Cause.PROCESS_DEATH if number == signal.SIGKILL else Cause.TIMEOUT)
    assert {(await bench.run("echo", value="on")).value for _ in range(2 * SLOTS)} == {b"on"}


async def test_the_death_of_an_idle_child_costs_no_attempt(bench: Bench) -> None:
    for _ in range(2):
        for who in [await bench.who() for _ in range(SLOTS)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(who["parent"], signal.SIGKILL)
        ends = await asyncio.gather(*(bench.run("echo", value="on") for _ in range(SLOTS)))
        assert {e.value for e in ends} == {b"on"}


async def test_a_slot_whose_new_child_could_not_start_gets_one_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failed = PoolSlot._new_child, []

    def fails_first(slot: PoolSlot) -> Child:
        if slot in failed:
            return real(slot)
        failed.append(slot)
        raise BlockingIOError(11, "no more processes")

    monkeypatch.setattr(PoolSlot, "_new_child", fails_first)
    for slot in bench.pool._slots:
        os.kill(slot.child.pid, signal.SIGKILL)
    await until(lambda: len(failed) == SLOTS)
    ends = await asyncio.gather(*(bench.run("echo", value="on") for _ in range(SLOTS)))
    assert {e.value for e in ends} == {b"on"}


async def test_a_killed_forkserver_is_replaced(bench: Bench) -> None:
    parent = processes()[(await bench.who())["parent"]].parent
    os.kill(parent, signal.SIGKILL)
    await until(lambda: not alive(parent))
    ends = await asyncio.gather(*(bench.run("echo", value="on") for _ in range(SLOTS)))
    assert {e.value for e in ends} == {b"on"}
    assert processes()[(await bench.who())["parent"]].parent != parent
    assert b"a-secret" not in ((await bench.run("environment")).value or b"")


async def test_the_time_limit_kills_the_child(bench: Bench) -> None:
    began = time.monotonic()
    end = await bench.run("limited")
    assert (end.cause, end.detail) == (Cause.TIMEOUT, "the attempt exceeded its time limit of 0.4 s")
    assert 0.4 <= time.monotonic() - began < 10


async def test_a_submissions_own_time_limit_goes_before_the_kinds(bench: Bench) -> None:
    end = await bench.run("ignores_sigterm", timeout_s=0.2)
    assert end.detail == "the attempt exceeded its time limit of 0.2 s"


@pytest.mark.parametrize("then", ["return", "die", "wait"])
async def test_nothing_that_an_attempt_started_outlives_it(bench: Bench, tmp_path: Path, then: str) -> None:
    pids = tmp_path / "pids"
    end = await bench.run("starts_others", timeout_s=5.0 if then != "wait" else 1.0, pids=str(pids), then=then)
    assert end.cause is {"return": None, "die": Cause.PROCESS_DEATH, "wait": Cause.TIMEOUT}[then]
    _child, *others = map(int, pids.read_text().split())
    assert not any(alive(pid) for pid in others), "the next attempt would run beside what is left of this one"


@pytest.mark.parametrize("then", ["die", "wait"])
async def test_nothing_of_an_attempt_is_alive_when_its_end_is_reported(bench: Bench, tmp_path: Path, then: str) -> None:
    """The report leads to a retry at once: the next attempt may begin before this slot is cleaned up."""
    pids, left = tmp_path / "pids", []
    job = bench.job("starts_others", timeout_s=1.0, pids=str(pids), then=then)

    def on_end(*_: object) -> None:
        left.append([pid for pid in map(int, pids.read_text().split()) if alive(pid)])

    await bench.pool.run_all(deque([job]), lambda _: True, on_end)
    assert left == [[]]


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the test, in a session of its own."""
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        yield process
        process.kill()


async def test_a_task_cannot_have_the_node_kill_others(bench: Bench, bystander: "subprocess.Popen[bytes]") -> None:
    assert (await bench.run("forges_a_birth", parent=os.getpid())).cause is Cause.PROCESS_DEATH
    assert bystander.poll() is None


async def test_an_orphan_of_a_task_cannot_pass_for_a_child(bench: Bench, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    assert (await bench.run("leaves_one_that_forges_its_birth", pid=str(pid))).cause is Cause.PROCESS_DEATH
    assert not alive(int(pid.read_text()))


async def test_what_a_child_started_dies_with_it_although_the_forkserver_died_too(bench: Bench, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    running = asyncio.create_task(bench.run("starts_others", pids=str(pids), then="wait"))
    await until(pids.exists)
    runner, plain, *in_other_sessions = map(int, pids.read_text().split())
    seen = processes()
    os.kill(seen[seen[runner].parent].parent, signal.SIGKILL)
    assert (await running).cause is Cause.PROCESS_DEATH
    assert not alive(plain), "its session still shows whose it was"
    for pid in in_other_sessions:  # nothing shows whose these were, unless the child was there to the end
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def test_cancel_kills_the_attempt_of_that_task_alone(bench: Bench, tmp_path: Path) -> None:
    flag = tmp_path / "pid"
    job = bench.job("sleeps", seconds=60.0, flag=str(flag))
    running, other = asyncio.create_task(bench.pool.run(job)), asyncio.create_task(bench.run("sleeps", seconds=0.5))
    await until(lambda: flag.exists() and flag.read_text() != "")
    assert {r.id for r in bench.pool.running()} >= {job.task.id}
    asked = time.monotonic()
    assert bench.pool.cancel(job.task.id)
    assert (await running).detail == "cancelled"
    assert time.monotonic() - asked < 10  # it would sleep for 60
    assert not alive(int(flag.read_text()))
    assert (await other).value == b"slept"
    assert not bench.pool.cancel(job.task.id)


async def test_drain_ends_running_attempts_with_its_own_cause(bench: Bench) -> None:
    running = [asyncio.create_task(bench.run("sleeps", seconds=60.0)) for _ in range(SLOTS)]
    await until(lambda: len(bench.pool.running()) == SLOTS)
    bench.pool.stop_running(Cause.DRAIN, "the node was drained")
    assert {(await r).cause for r in running} == {Cause.DRAIN}


async def test_self_fencing_kills_all_from_another_thread_and_waits_for_it(bench: Bench, tmp_path: Path) -> None:
    flags = [tmp_path / str(n) for n in range(SLOTS)]
    running = [asyncio.create_task(bench.run("sleeps", seconds=60.0, flag=str(f))) for f in flags]
    await until(lambda: all(f.exists() and f.read_text() for f in flags))
    await asyncio.to_thread(bench.pool.kill_all)
    assert not any(alive(int(f.read_text())) for f in flags)
    assert {(await r).cause for r in running} <= {Cause.NODE_LOSS, Cause.PROCESS_DEATH}
    assert (await bench.run("echo", value="on")).value == b"on"


async def test_self_fencing_kills_although_the_nodes_event_loop_has_ended(bench: Bench, tmp_path: Path) -> None:
    flag, ended = tmp_path / "pid", asyncio.new_event_loop()
    ended.close()
    running = asyncio.create_task(bench.run("sleeps", seconds=60.0, flag=str(flag)))
    await until(lambda: flag.exists() and flag.read_text() != "")
    bench.pool._loop = ended
    await asyncio.to_thread(bench.pool.kill_all)
    assert not alive(int(flag.read_text()))
    assert (await running).cause in (Cause.NODE_LOSS, Cause.PROCESS_DEATH)


async def test_self_fencing_leaves_a_process_alone_that_has_a_dead_childs_pid_by_now(bench: Bench) -> None:
    bystander = await asyncio.create_subprocess_exec("sleep", "60")
    slot = bench.pool._slots[0]
    slot._born = bystander.pid, start_time(bystander.pid) - 1
    try:
        await asyncio.to_thread(bench.pool.kill_all)
        assert alive(bystander.pid)
        slot.note_birth(bystander.pid)
        await asyncio.to_thread(bench.pool.kill_all)
        assert await bystander.wait() == -signal.SIGKILL, "a child that is just born is killed too"
    finally:
        slot._born = 0, 0
        if bystander.returncode is None:
            bystander.kill()
            await bystander.wait()
    assert (await bench.run("echo", value="on")).value == b"on"


async def test_a_job_that_waits_for_its_slot_can_be_cancelled(bench: Bench) -> None:
    running = [asyncio.create_task(bench.run("sleeps", seconds=0.5)) for _ in range(SLOTS)]
    await until(lambda: len(bench.pool.running()) == SLOTS)
    job = bench.job("echo", value="never")
    waiting = asyncio.create_task(bench.pool.run(job))
    await asyncio.sleep(0)
    assert bench.pool.cancel(job.task.id)
    assert (await waiting).detail == "cancelled"
    assert {(await r).value for r in running} == {b"slept"}


async def test_jobs_for_failing_slots_wait_and_use_up_no_attempts(bench: Bench) -> None:
    folders = [bench.pool._folder / f"slot-{n}" for n in range(SLOTS)]
    for folder in folders:
        folder.rename(folder.with_suffix(".away"))
    jobs = [bench.job("echo", value="on") for _ in range(SLOTS + 3)]
    ends: dict[str, AttemptEnd] = {}
    running = [
        asyncio.create_task(
            bench.pool.run_all(deque([job]), lambda _: True, lambda job, end: ends.update({job.task.id: end}))
        )
        for job in jobs
    ]
    await until(lambda: len(ends) == SLOTS)  # one attempt in each slot has failed
    cancelled, *others = [job.task.id for job in jobs if job.task.id not in ends]
    assert bench.pool.cancel(cancelled), "a waiting job can be cancelled"
    await until(lambda: cancelled in ends)
    assert "FileNotFoundError" in (bench.pool.check() or "")
    for folder in folders:
        folder.with_suffix(".away").rename(folder)
    await asyncio.gather(*running)
    assert [end.cause for end in list(ends.values())[:SLOTS]] == [Cause.NODE_LOSS] * SLOTS
    assert ends[cancelled].detail == "cancelled"
    assert [ends[other].value for other in others] == [b"on", b"on"]
    await until(lambda: bench.pool.check() is None)


async def test_an_attempt_whose_call_is_cancelled_is_killed(bench: Bench, tmp_path: Path) -> None:
    flag = tmp_path / "pid"
    running = asyncio.create_task(bench.run("sleeps", seconds=60.0, flag=str(flag)))
    await until(lambda: flag.exists() and flag.read_text() != "")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: not alive(int(flag.read_text())))


async def test_the_last_256_kib_of_100_mb_are_kept_and_the_rest_fills_neither_disk_nor_memory(bench: Bench) -> None:
    before = anonymous_bytes([os.getpid()])
    job = bench.job("prints_much", megabytes=100)
    assert (await bench.pool.run(job)).cause is None
    printed = log_file(bench.results, job.task.id, 1).read_bytes()
    assert (len(printed), printed[-15:]) == (LOG_BYTES, b"the last words\n")
    assert b"001599." in printed
    assert anonymous_bytes([os.getpid()]) - before < 30_000_000


async def test_a_task_that_closes_all_descriptors_harms_itself_alone(bench: Bench) -> None:
    end = await bench.run("closes_descriptors")
    assert end.cause in (Cause.PROCESS_DEATH, Cause.ERROR)
    assert (await bench.run("echo", value="on")).value == b"on"


async def test_memory_beyond_the_kinds_limit_is_out_of_memory(bench: Bench) -> None:
    assert (await bench.run("takes_memory", megabytes=8)).value == b"8388608"
    end = await bench.run("takes_memory", megabytes=200)
    assert end.cause is Cause.OUT_OF_MEMORY
    assert (await bench.run("many_bytes", size=200_000_000)).cause is None  # the limit was that attempt's own


async def test_progress_of_running_attempts_is_reported(bench: Bench) -> None:
    bench.progress.clear()
    job = bench.job("reports")
    await bench.pool.run(job)
    assert [p.fraction for p in bench.progress] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert {(p.id, p.attempt) for p in bench.progress} == {(job.task.id, 1)}


async def test_progress_is_handled_in_the_event_loop_alone(bench: Bench) -> None:
    """Others' reports arrive while the node looks for orphans after a death."""

    def report(progress: Progress) -> None:
        asyncio.get_running_loop()
        heard.append(progress)

    heard: list[Progress] = []
    on_progress, bench.pool._on_progress = bench.pool._on_progress, report
    try:
        reporting = asyncio.create_task(bench.run("reports_for", seconds=1.5))
        ends = [await bench.run("signals_its_child", number=int(signal.SIGKILL)) for _ in range(4)]
        assert (await reporting).cause is None
    finally:
        bench.pool._on_progress = on_progress
    assert {end.cause for end in ends} == {Cause.PROCESS_DEATH}
    assert len(heard) > 100


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_module", "No module named 'no_such_module'"),
        ("import os\nos._exit(0)", "the import ended the process"),
        ("raise SystemExit(2)", "SystemExit: 2"),
        ("x = 1", "registers no task kind"),
    ],
)
async def test_kinds_that_cannot_be_loaded_are_a_usage_error_that_names_the_file(
    tmp_path: Path, source: str, said: str
) -> None:
    file = tmp_path / "broken.py"
    file.write_text(source)
    with pytest.raises(UsageError, match=said) as raised:
        await asyncio.to_thread(Pool(str(file), 1, tmp_path / "scratch").start)
    assert "broken.py" in str(raised.value)


async def test_an_import_that_ended_the_process_before_the_request_is_reported_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked_late(child: Child, timeout_s: float) -> bytes:
        child._process.join(30)
        return ask(child, timeout_s)

    ask = Child.describe_kinds
    monkeypatch.setattr(Child, "describe_kinds", asked_late)
    file = tmp_path / "broken.py"
    file.write_text("import os\nos._exit(0)")
    with pytest.raises(UsageError, match="the import ended the process"):
        await asyncio.to_thread(Pool(str(file), 1, tmp_path / "scratch").start)
