"""Kinds with `reuse_process`: one process for many attempts, as long as none of them has changed it."""

import asyncio
import os
import signal
import tempfile
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio

from agents.execution.job import AttemptEnd, Job
from agents.execution.pool import Pool
from headrace.child import kept_runner
from headrace.child.process_tree import processes
from headrace.contract.states import Cause
from tests.rigs import dirty_tasks
from tests.rigs.pool import Bench, until

KINDS = str(Path(dirty_tasks.__file__))
UNSEEN = {"patches_the_library"}  # what the author of a kind with `reuse_process` vouches for
# The process need not end for these: random numbers are seeded anew, and a kept process has nothing else open.
HARMLESS = {"seeds_random", "closes_everything_but_its_answer"}

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench() -> AsyncIterator[Bench]:
    """A pool of one slot: every attempt follows the one before in the same place.

    Its path is short: from a certain length on, multiprocessing gets a descriptor, and the canary would report it.
    """
    with tempfile.TemporaryDirectory() as name:
        pool = Pool(KINDS, 1, Path(name) / "scratch", results_root=Path(name))
        kinds = await asyncio.to_thread(pool.start)
        pool.listen()
        yield Bench(pool, kinds, [], Path(name))
        await pool.close()


async def value(bench: Bench, name: str, **payload: Any) -> Any:
    end = await bench.run(name, **payload)
    assert end.cause is None, end.detail
    return orjson.loads(end.value or b"")


async def pid(bench: Bench) -> int:
    return int((await value(bench, "who_in_a_kept_process"))["pid"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clean(bench: Bench) -> Any:
    """What the canary finds in a kept process that has run nothing else."""
    await bench.run("ends_in_a_kept_process", how="raise")
    return await value(bench, "canary_in_a_kept_process")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clean_of_its_own(bench: Bench) -> Any:
    """What it finds in a process of its own."""
    return await value(bench, "canary")


async def test_attempts_follow_one_another_in_one_process(bench: Bench) -> None:
    assert len({await pid(bench) for _ in range(20)}) == 1


@pytest.mark.parametrize("mess", [m for m in dirty_tasks.MESSES if m not in UNSEEN])
async def test_after_a_mess_the_next_attempt_finds_a_clean_process(bench: Bench, clean: Any, mess: str) -> None:
    before = await pid(bench)
    end = await bench.run("makes_a_mess_in_a_kept_process", mess=mess)
    assert (end.cause, end.value) == (None, b"done"), end.detail
    assert (await pid(bench) == before) == (mess in HARMLESS)
    assert await value(bench, "canary_in_a_kept_process") == clean


@pytest.mark.parametrize("mess", dirty_tasks.MESSES)
async def test_no_mess_reaches_a_kind_with_a_process_of_its_own(bench: Bench, clean_of_its_own: Any, mess: str) -> None:
    end = await bench.run("makes_a_mess_in_a_kept_process", mess=mess)
    assert (end.cause, end.value) == (None, b"done"), end.detail
    assert await value(bench, "canary") == clean_of_its_own


async def test_random_numbers_are_new_in_each_attempt_also_after_a_seed(bench: Bench) -> None:
    await bench.run("makes_a_mess_in_a_kept_process", mess="seeds_random")
    first = await value(bench, "draws_in_a_kept_process")
    await bench.run("makes_a_mess_in_a_kept_process", mess="seeds_random")
    assert await value(bench, "draws_in_a_kept_process") != first


@pytest.mark.parametrize(
    ("how", "cause", "words"),
    [
        ("raise", Cause.ERROR, "ZeroDivisionError"),
        ("exit", Cause.PROCESS_DEATH, "exited with code 3"),
        ("kill", Cause.PROCESS_DEATH, "killed by SIGKILL"),
    ],
)
async def test_an_attempt_that_fails_ends_the_process_and_only_itself(
    bench: Bench, how: str, cause: Cause, words: str
) -> None:
    before = await pid(bench)
    end = await bench.run("ends_in_a_kept_process", how=how)
    assert end.cause is cause
    assert words in end.detail
    assert await pid(bench) not in (before, 0)


async def test_a_time_limit_ends_the_attempt_and_its_process(bench: Bench) -> None:
    before = await pid(bench)
    end = await bench.run("sleeps_in_a_kept_process", timeout_s=0.3, seconds=60.0)
    assert end.cause is Cause.TIMEOUT
    assert before not in processes()
    assert await pid(bench) != before


async def test_a_kept_process_that_is_killed_while_it_waits_costs_no_attempt(bench: Bench) -> None:
    before = await pid(bench)
    os.kill(before, signal.SIGKILL)
    await until(lambda: processes()[before].zombie)
    assert await pid(bench) != before


async def test_an_attempt_of_another_kind_finds_no_kept_process_beside_it(bench: Bench) -> None:
    before = await pid(bench)
    await bench.run("makes_a_mess", mess="leaves_descriptors_open")
    assert before not in processes()


async def test_a_large_payload_and_what_follows_it_come_through(bench: Bench) -> None:
    for size in (10, kept_runner._MAX_REQUEST_BYTES + 1, 10, kept_runner._MAX_REQUEST_BYTES - 20):
        assert (await value(bench, "who_in_a_kept_process", padding="x" * size))["pid"]


async def test_a_chunk_runs_in_one_process_and_a_process_ends_after_its_number_of_attempts(bench: Bench) -> None:
    count = kept_runner.MAX_ATTEMPTS + 50
    jobs, pids = deque(bench.job("who_in_a_kept_process") for _ in range(count)), []

    def note(_: Job, end: AttemptEnd) -> None:
        pids.append(orjson.loads(end.value or b"")["pid"])

    await bench.pool.run_all(jobs, lambda _: True, note)
    assert len(pids) == count
    assert len(set(pids)) == 2


async def test_nothing_is_left_when_the_pool_ends(tmp_path: Path) -> None:
    pool = Pool(KINDS, 1, tmp_path / "scratch", results_root=tmp_path)
    kinds = await asyncio.to_thread(pool.start)
    pool.listen()
    kept = await pid(Bench(pool, kinds, [], tmp_path))
    await pool.close()
    assert kept not in processes()
