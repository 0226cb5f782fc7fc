"""Whatever an attempt does to its process, the next one in the same slot begins in a clean state."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio

from agents.execution.pool import Pool
from headrace.storage.attempt_log import log_file
from tests.rigs import dirty_tasks
from tests.rigs.pool import Bench

KINDS = str(Path(dirty_tasks.__file__))
PRINTED = b"the canary prints\n", b"until its end\n"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    """A pool of one slot: every attempt follows the one before in the same place."""
    folder = tmp_path_factory.mktemp("pool")
    pool = Pool(KINDS, 1, folder / "scratch", results_root=folder)
    kinds = await asyncio.to_thread(pool.start)
    pool.listen()
    yield Bench(pool, kinds, [], folder)
    await pool.close()


async def canary(bench: Bench) -> Any:
    job = bench.job("canary")
    end = await bench.pool.run(job)
    assert end.cause is None, end.detail
    assert sorted(log_file(bench.results, job.task.id, 1).read_bytes().splitlines(keepends=True)) == sorted(PRINTED)
    return orjson.loads(end.value or b"")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clean(bench: Bench) -> Any:
    """What the canary finds when no other attempt has run."""
    return await canary(bench)


@pytest.mark.parametrize("mess", list(dirty_tasks.MESSES))
async def test_the_next_attempt_finds_a_clean_process(bench: Bench, clean: Any, mess: str) -> None:
    end = await bench.run("makes_a_mess", mess=mess)
    assert (end.cause, end.value) == (None, b"done"), end.detail
    assert await canary(bench) == clean


async def test_attempts_draw_different_random_numbers(bench: Bench) -> None:
    drawn = [(await bench.run("draws")).value for _ in range(3)]
    await bench.run("makes_a_mess", mess="seeds_random")
    drawn.append((await bench.run("draws")).value)
    assert len(set(drawn)) == 4


async def test_a_mess_of_a_micro_batch_stays_with_its_member(bench: Bench, clean: Any) -> None:
    jobs = [bench.job("makes_a_mess", mess=mess) for mess in dirty_tasks.MESSES] + [bench.job("canary")]
    ends = []
    await bench.pool.run_all(deque(jobs), lambda _: True, lambda _, end: ends.append(end))
    assert {end.cause for end in ends} == {None}
    assert orjson.loads(ends[-1].value or b"") == clean
