"""An attempt above its limit of disk space or memory ends, alone, with a reason."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
import pytest_asyncio

from agents.execution.pool import Pool
from agents.execution.resource_limits import Limits, directory_bytes
from headrace.contract.states import Cause
from tests.rigs.pool import HARD, SLOTS, Bench, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    folder = tmp_path_factory.mktemp("pool")
    pool = Pool(HARD, SLOTS, folder / "scratch", results_root=folder, limits=Limits(memory_mb=128, scratch_mb=16))
    kinds = pool.start()
    pool.listen()
    yield Bench(pool, kinds, [], folder)
    await pool.close()


async def test_many_files_in_scratch_end_the_attempt_and_are_removed(bench: Bench) -> None:
    neighbour = asyncio.create_task(bench.run("sleeps", seconds=1.0))
    end = await bench.run("fills_scratch", file_mb=1, timeout_s=50.0)
    assert (end.cause, end.detail) == (
        Cause.ERROR,
        "its scratch files exceeded the limit of 16 MiB (HEADRACE_SCRATCH_MB)",
    )
    assert (await neighbour).value == b"slept"
    await until(lambda: not list((bench.results / "scratch").glob("slot-*/*-1-*")), 30.0)
    assert (await bench.run("echo", value="on")).value == b"on"


async def test_one_file_above_the_limit_is_an_error_at_the_line_that_writes_it(bench: Bench) -> None:
    end = await bench.run("fills_scratch", file_mb=17, files=1, timeout_s=50.0)
    assert end.cause is Cause.ERROR
    assert end.detail.endswith("OSError: [Errno 27] File too large")


async def test_each_attempt_has_an_empty_scratch_of_its_own(bench: Bench) -> None:
    ends = [await bench.run("looks_at_its_scratch") for _ in range(SLOTS)]
    ends += await asyncio.gather(*(bench.run("looks_at_its_scratch") for _ in range(2 * SLOTS)))
    found = [orjson.loads(end.value or b"") for end in ends]
    assert [each["found"] for each in found] == [[]] * len(found)
    assert len({each["scratch"] for each in found}) == len(found)


async def test_temporary_files_count_as_scratch(bench: Bench) -> None:
    assert {(await bench.run("temporary_file_is_in_scratch")).value for _ in range(4)} == {b"true"}


async def test_what_a_dead_attempt_left_in_scratch_is_removed(bench: Bench, tmp_path: Path) -> None:
    said = tmp_path / "scratch"
    assert (await bench.run("dies_with_a_file", file=str(said))).cause is Cause.PROCESS_DEATH
    await until(lambda: not Path(said.read_text()).exists(), 30.0)


async def test_the_result_file_of_a_dead_attempt_is_removed(bench: Bench) -> None:
    assert (await bench.run("dies_when_its_result_is_written")).cause is Cause.PROCESS_DEATH
    assert not list((bench.results / "scratch").glob("slot-*/results/*"))


@pytest.mark.parametrize(
    ("kind", "payload"),
    [("takes_memory_in_many_processes", {"processes": 4, "megabytes": 50}), ("lifts_its_limit", {})],
)
async def test_memory_beyond_a_processs_own_limit_is_measured_from_outside(
    bench: Bench, kind: str, payload: dict[str, int]
) -> None:
    end = await bench.run(kind, timeout_s=50.0, **payload)
    assert (end.cause, end.detail) == (
        Cause.OUT_OF_MEMORY,
        "its processes together exceeded the limit of 64 MiB (memory_mb of its kind)",
    )
    assert not end.oom_victim  # it is charged, whatever else ran


async def test_a_kind_without_a_limit_of_its_own_has_that_of_the_slot(bench: Bench) -> None:
    assert (await bench.run("takes_unlimited_memory", megabytes=10)).cause is None
    end = await bench.run("takes_unlimited_memory", megabytes=200)
    assert end.cause is Cause.OUT_OF_MEMORY
    assert "MemoryError" in end.detail


async def test_files_are_measured_by_the_disk_space_that_they_take(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as f:
        f.truncate(1_000_000_000)
    (tmp_path / "link").symlink_to("/")
    assert directory_bytes(tmp_path) < 100_000
