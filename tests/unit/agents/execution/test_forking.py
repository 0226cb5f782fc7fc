"""What importing the kinds leaves in the child, and what of it attempts share: generators, threads, processes."""

import logging
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from agents.execution.pool import Pool
from headrace.child import process_tree
from headrace.child.protocol import Begun, pack_frame
from headrace.contract.states import Cause
from tests.rigs.pool import Bench, alive, until

HEAD = "import os, sys\nfrom pathlib import Path\nfrom headrace import Context, task\n"
WHO = "@task\ndef who() -> dict[str, int]:\n    return {'pid': os.getpid(), 'parent': os.getppid()}\n"
THREADED = f"""{HEAD}
import threading, time
threading.Thread(target=time.sleep, args=(600,), name="import-time", daemon=True).start()
ran = []
{WHO}
@task
def runs() -> list[int]:
    ran.append(os.getpid())
    os.environ["LEFT"] = "over"
    return [len(ran), threading.active_count(), "LEFT" in os.environ, os.getcwd() == os.environ["TMPDIR"]]
@task
def fails(how: str) -> None:
    if how == "die":
        os._exit(7)
    if how == "wait":
        time.sleep(600)
    raise ValueError(how)
@task
def leaves(pid: str) -> str:
    threading.Thread(target=time.sleep, args=(600,)).start()
    if (child := os.fork()) == 0:
        os.setsid()
        time.sleep(600)
    Path(pid).write_text(str(child))
    return "done"
"""


@asynccontextmanager
async def pool_of(folder: Path, source: str, name: str = "own_kinds.py") -> AsyncIterator[Bench]:
    """A pool of one slot with these kinds."""
    (folder / name).write_text(source)
    pool = Pool(str(folder / name), 1, folder / "scratch", results_root=folder)
    kinds = pool.start()
    pool.listen()
    try:
        yield Bench(pool, kinds, [], folder)
    finally:
        await pool.close()


async def value(bench: Bench, kind: str, **payload: Any) -> Any:
    end = await bench.run(kind, timeout_s=50.0, **payload)
    assert end.cause is None, end.detail
    return orjson.loads(end.value or b"")


async def test_attempts_draw_different_numbers_from_numpy_and_share_its_import(tmp_path: Path) -> None:
    draws = "import numpy\n@task\ndef draws() -> list[float]:\n    return list(numpy.random.rand(3))\n"
    product = "@task\ndef product() -> float:\n    a = numpy.ones((300, 300))\n    return float((a @ a)[0][0])\n"
    async with pool_of(tmp_path, HEAD + WHO + draws + product) as bench:
        drawn = [await value(bench, "draws") for _ in range(4)]
        assert len({tuple(d) for d in drawn}) == 4
        assert [await value(bench, "product") for _ in range(2)] == [300.0, 300.0]
        found = [await value(bench, "who") for _ in range(2)]
        assert len({w["pid"] for w in found}) == 2
        assert len({w["parent"] for w in found}) == 1, "numpy's own threads must not forbid forking"


async def test_threads_that_an_import_leaves_give_each_attempt_a_child_of_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with pool_of(tmp_path, THREADED) as bench:
            assert [await value(bench, "runs") for _ in range(3)] == [[1, 2, True, True]] * 3
            assert len({(await value(bench, "who"))["pid"] for _ in range(3)}) == 3
            forkserver = bench.pool._orphans._forkserver
            assert {(await value(bench, "who"))["parent"] for _ in range(2)} == {forkserver}
    said = [r.message for r in caplog.records if "leaves threads running (import-time)" in r.message]
    assert len(said) == 1


async def test_a_child_that_runs_its_attempt_itself_is_told_of_like_a_runner(tmp_path: Path) -> None:
    async with pool_of(tmp_path, THREADED) as bench:
        for how, cause, detail in [
            ("raise", Cause.ERROR, "ValueError: raise"),
            ("die", Cause.PROCESS_DEATH, "the process exited with code 7"),
        ]:
            end = await bench.run("fails", how=how)
            assert end.cause is cause
            assert end.detail.endswith(detail)
        end = await bench.run("fails", how="wait", timeout_s=0.3)
        assert end.cause is Cause.TIMEOUT
        assert (await value(bench, "runs"))[0] == 1


async def test_a_child_that_runs_its_attempt_itself_leaves_nothing(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    async with pool_of(tmp_path, THREADED) as bench:
        end = await bench.run("leaves", pid=str(pid))
        assert (end.cause, end.value) == (None, b"done")
        assert not alive(int(pid.read_text()))


@pytest.fixture
def bystander() -> Iterator["subprocess.Popen[bytes]"]:
    """A process of the test with a child, in a session of its own."""
    with subprocess.Popen(["sh", "-c", "sleep 60; true"], start_new_session=True) as process:
        yield process
        os.killpg(process.pid, signal.SIGKILL)


async def test_a_task_cannot_name_another_process_as_its_runner(
    tmp_path: Path, bystander: "subprocess.Popen[bytes]"
) -> None:
    forges = """
import stat
@task
def forges(begun: str, context: Context) -> None:
    for descriptor in range(3, 64):
        try:
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                os.write(descriptor, bytes.fromhex(begun))
        except OSError:
            pass
    time.sleep(60)
"""
    async with pool_of(tmp_path, THREADED + forges) as bench:
        job = bench.job("forges", begun="")
        begun = pack_frame(Begun(job.task.id, 1, bystander.pid)).hex()
        job = replace(job, submission=replace(job.submission, payload={"begun": begun}))
        end = await bench.pool.run(job)
        assert end.cause is Cause.PROCESS_DEATH
        assert f"says that it is process {bystander.pid}" in end.detail
    assert bystander.poll() is None


@pytest.mark.parametrize("kinds", [HEAD, THREADED], ids=["forked", "not forked"])
async def test_a_child_that_is_told_a_wrong_pid_of_its_own_harms_nobody(
    tmp_path: Path, bystander: "subprocess.Popen[bytes]", kinds: str
) -> None:
    told = (
        f"os.getpid = os.getppid = lambda: {bystander.pid}\n"
        "@task\ndef leaves_one() -> str:\n    return str(os.spawnlp(os.P_NOWAIT, 'sleep', 'sleep', '600'))\n"
    )
    async with pool_of(tmp_path, kinds + told) as bench:
        for _ in range(2):
            assert not alive(await value(bench, "leaves_one"))
    assert bystander.poll() is None


@pytest.mark.parametrize("root", [0, 1])
async def test_no_mistake_kills_the_whole_machine(root: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_tree, "kill", lambda pid, number: killed.append(pid))
    killed: list[int] = []
    process_tree.kill_trees([root])
    process_tree.kill_trees([root], with_roots=False)
    assert killed == []


async def test_its_successor_is_made_ahead(tmp_path: Path) -> None:
    async with pool_of(tmp_path, THREADED) as bench:
        first = (await value(bench, "who"))["pid"]
        await until(lambda: bench.pool._slots[0].child.pid not in (0, first))
        ahead = bench.pool._slots[0].child.pid
        assert (await value(bench, "who"))["pid"] == ahead


async def test_processes_that_an_import_has_started_outlive_the_attempts(tmp_path: Path) -> None:
    helper = (
        "import subprocess\nhelper = subprocess.Popen(['sleep', '600'])\n"
        "@task\ndef forks() -> int:\n    os.spawnlp(os.P_NOWAIT, 'sleep', 'sleep', '600')\n    return helper.pid\n"
    )
    async with pool_of(tmp_path, HEAD + WHO + helper) as bench:
        pids = {await value(bench, "forks") for _ in range(2)}
        assert len(pids) == 1
        assert alive(*pids)
        seen = [int(p) for p in os.listdir("/proc") if p.isdigit()]
        children = [p for p in seen if _parent(p) == bench.pool._slots[0].child.pid]
        assert children == [*pids]
    assert not alive(*pids)


async def test_locks_that_an_import_makes_do_not_keep_attempts_from_multiprocessing(tmp_path: Path) -> None:
    locked = (
        "import multiprocessing\nspawn = multiprocessing.get_context('spawn')\nlock = spawn.Lock()\n"
        "def square(n: int) -> int:\n    return n * n\n"
        "@task\ndef squares() -> list[int]:\n    with lock, spawn.Pool(2) as pool:\n"
        "        return pool.map(square, range(3))\n"
    )
    async with pool_of(tmp_path, HEAD + locked) as bench:
        assert [await value(bench, "squares") for _ in range(2)] == [[0, 1, 4]] * 2


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


async def test_a_handler_for_sigchld_that_an_import_sets_takes_no_runners_exit_code(tmp_path: Path) -> None:
    handler = (
        "import signal\ndef collect(*_):\n    while os.waitpid(-1, os.WNOHANG)[0]:\n        pass\n"
        "signal.signal(signal.SIGCHLD, collect)\n"
        "@task\ndef exits() -> None:\n    assert signal.getsignal(signal.SIGCHLD) is collect\n    os._exit(7)\n"
    )
    async with pool_of(tmp_path, HEAD + handler) as bench:
        for _ in range(2):
            assert (await bench.run("exits")).detail == "the process exited with code 7"


async def test_what_an_import_prints_is_in_no_attempts_log(tmp_path: Path) -> None:
    async with pool_of(tmp_path, HEAD + WHO + "print('while importing', end='')\nsys.stderr.write('too')\n") as bench:
        await value(bench, "who")
        assert not (tmp_path / "logs").exists() or not list((tmp_path / "logs").rglob("*.log"))


@pytest.mark.parametrize("name", ["json.py", "joblib.py", "two.parts.py"])
async def test_a_file_whose_name_is_taken_works_and_the_log_says_what_does_not(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with pool_of(tmp_path, HEAD + WHO + "import json\njson.dumps({})\n", name) as bench:
            await value(bench, "who")
    assert [r.message for r in caplog.records if f"{name} cannot be imported as" in r.message]
