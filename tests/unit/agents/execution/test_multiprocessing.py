"""Kinds that use multiprocessing, concurrent.futures and joblib, each twice in a row on one slot."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio

from agents.execution.pool import Pool
from tests.rigs import parallel_tasks
from tests.rigs.pool import Bench, alive

SQUARES = [0, 1, 4, 9]
METHODS = ["", "fork", "spawn", "forkserver"]

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    """Its folder has a long name, as deep project folders have: sockets below it need a shorter one."""
    folder = tmp_path_factory.mktemp("a-folder-with-a-name-that-makes-paths-of-sockets-longer-than-they-may-be")
    pool = Pool(str(Path(parallel_tasks.__file__)), 1, folder / "scratch", results_root=folder)
    kinds = await asyncio.to_thread(pool.start)
    pool.listen()
    yield Bench(pool, kinds, [], folder)
    await pool.close()


async def twice(bench: Bench, kind: str, **payload: Any) -> Any:
    values = []
    for _ in range(2):
        end = await bench.run(kind, timeout_s=50.0, **payload)
        assert end.cause is None, end.detail
        values.append(orjson.loads(end.value or b""))
    assert values[0] == values[1]
    return values[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["executor", "pool"])
async def test_pools_of_processes_work_with_helper_functions_of_the_file(bench: Bench, kind: str, method: str) -> None:
    assert await twice(bench, kind, method=method) == SQUARES


@pytest.mark.parametrize("method", METHODS)
async def test_a_process_that_is_joined_has_exit_code_0(bench: Bench, method: str) -> None:
    assert await twice(bench, "process", method=method) == 0


@pytest.mark.parametrize("method", METHODS)
async def test_queues_and_managers_work(bench: Bench, method: str) -> None:
    assert await twice(bench, "queues", method=method) == {"0": 0, "1": 1, "2": 4, "3": 9}
    assert await twice(bench, "manager", method=method) == {"four": 4}


async def test_a_data_loader_with_forked_workers_and_a_pin_thread_works(bench: Bench) -> None:
    assert await twice(bench, "loader") == [n * n for n in range(8)]


@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
async def test_joblib_works(bench: Bench, backend: str) -> None:
    assert await twice(bench, "with_joblib", backend=backend) == SQUARES


async def test_threads_of_concurrent_futures_work(bench: Bench) -> None:
    assert await twice(bench, "threads") == SQUARES


async def test_an_attempt_runs_in_what_looks_like_a_programs_main_process(bench: Bench) -> None:
    assert await twice(bench, "looks_like_a_main_process") == {
        "name": "MainProcess",
        "daemon": False,
        "parent": True,
        "children": 0,
        "method": None,
        "main_thread": True,
        "module": "parallel_tasks",
    }


@pytest.mark.parametrize("method", METHODS)
async def test_workers_and_named_memory_that_are_left_behind_are_gone(
    bench: Bench, tmp_path: Path, method: str
) -> None:
    pids = tmp_path / "pids"
    end = await bench.run("leaves_workers", method=method, pids=str(pids), timeout_s=50.0)
    assert end.cause is None, end.detail
    left = [int(pid) for pid in pids.read_text().split()]
    assert len(left) == 3
    assert not [pid for pid in left if alive(pid)]
    names = [name.strip("/") for name in (end.value or b"").decode().split() if name != "None"]
    assert not set(os.listdir("/dev/shm")) & {*names, *(f"sem.{name}" for name in names)}
