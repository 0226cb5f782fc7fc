"""The working directory of an attempt is its scratch, and a file that it returns from there is its result."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from agents.execution.job import AttemptEnd
from agents.execution.pool import Pool
from headrace.child.content_types import type_and_suffix
from headrace.contract.states import Cause
from tests.rigs.pool import SLOTS, Bench

pytestmark = pytest.mark.asyncio(loop_scope="module")

KINDS = """
import os, time
from pathlib import Path
from headrace import Context, task

@task
def writes(file_name: str, text: str, seconds: float = 0.0) -> Path:
    assert os.listdir() == []
    Path(file_name).parent.mkdir(parents=True, exist_ok=True)
    with open(file_name, "a") as file:
        file.write(text)
        time.sleep(seconds)
    return Path(file_name)

@task
def returns(path: str, context: Context) -> Path:
    (context.scratch / "folder").mkdir()
    os.symlink("/etc/hostname", "link")
    return Path(path)

@task(suffix=".csv")
def declared_suffix() -> Path:
    Path("out.dat").write_text("a,b")
    return Path("out.dat")

@task(content_type="text/x-own")
def declared_type() -> Path:
    Path("out.csv").write_text("a,b")
    return Path("out.csv")

@task
def elsewhere_and_back(context: Context) -> Path:
    Path("out.csv").write_text("a,b")
    os.chdir("/")
    return Path("out.csv")
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    folder = tmp_path_factory.mktemp("pool")
    (folder / "file_kinds.py").write_text(KINDS)
    pool = Pool(str(folder / "file_kinds.py"), SLOTS, folder / "scratch", results_root=folder)
    kinds = await asyncio.to_thread(pool.start)
    pool.listen()
    yield Bench(pool, kinds, [], folder)
    await pool.close()


def stored(end: AttemptEnd) -> tuple[str, str, str]:
    """(text, content type, suffix) of the result."""
    assert end.cause is None, end.detail
    assert end.result_file is not None
    text = end.result_file.read_text()
    end.result_file.unlink()
    return text, end.content_type, end.suffix


async def test_a_relative_path_is_a_result_with_its_suffix_and_content_type(bench: Bench) -> None:
    assert stored(await bench.run("writes", file_name="out.csv", text="a,b")) == ("a,b", "text/csv", ".csv")
    assert stored(await bench.run("writes", file_name="sub/plot.png", text="x")) == ("x", "image/png", ".png")


async def test_tasks_that_write_the_same_name_do_not_meet_and_a_retry_begins_anew(bench: Bench) -> None:
    ends = await asyncio.gather(
        *(bench.run("writes", file_name="out.csv", text=str(n), seconds=0.3) for n in range(SLOTS)),
        *(bench.run("writes", file_name="out.csv", text=str(n)) for n in range(SLOTS, 4 * SLOTS)),
    )
    assert [stored(end)[0] for end in ends] == [str(n) for n in range(4 * SLOTS)]
    late = await bench.run("writes", file_name="out.csv", text="first", seconds=60.0, timeout_s=0.3)
    assert late.cause is Cause.TIMEOUT
    assert stored(await bench.run("writes", file_name="out.csv", text="again"))[0] == "again"


async def test_what_the_kind_declares_goes_before_the_files_name(bench: Bench) -> None:
    assert stored(await bench.run("declared_suffix")) == ("a,b", "text/csv", ".csv")
    assert stored(await bench.run("declared_type")) == ("a,b", "text/x-own", ".csv")


async def test_a_relative_path_is_taken_from_scratch_wherever_the_task_is(bench: Bench) -> None:
    assert stored(await bench.run("elsewhere_and_back"))[0] == "a,b"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("missing.csv", "the returned path missing.csv cannot be read (No such file or directory): a relative path"),
        ("../../secret", "the returned path ../../secret cannot be read"),
        ("..", "the returned path .. is not a file in the attempt's scratch directory"),
        ("folder", "the returned path folder is not a file in the attempt's scratch directory"),
        ("link", "the returned path link is not a file in the attempt's scratch directory"),
        ("/etc/hostname", "the returned path /etc/hostname is not a file in the attempt's scratch directory"),
    ],
)
async def test_what_is_no_file_of_the_attempt_is_refused_in_words(bench: Bench, path: str, said: str) -> None:
    end = await bench.run("returns", path=path)
    assert end.cause is Cause.ERROR
    assert said in end.detail


@pytest.mark.parametrize(
    ("name", "content_type", "suffix"),
    [
        ("a.csv", "text/csv", ".csv"),
        ("a.JSON", "application/json", ".JSON"),
        ("a.b.png", "image/png", ".png"),
        ("a.parquet", "application/vnd.apache.parquet", ".parquet"),
        ("a.tar.gz", "application/gzip", ".tar.gz"),
        ("a.csv.zst", "application/zstd", ".csv.zst"),
        ("a.tgz", "application/gzip", ".tgz"),
        ("v1.2-final.gz", "application/gzip", ".gz"),
        ("a.unknown", "application/octet-stream", ".unknown"),
        ("plain", "application/octet-stream", ".bin"),
        (".hidden", "application/octet-stream", ".bin"),
        ("model.ckpt-1000", "application/octet-stream", ".bin"),
        ("a.", "application/octet-stream", ".bin"),
    ],
)
async def test_content_types_and_suffixes(name: str, content_type: str, suffix: str) -> None:
    assert type_and_suffix(name) == (content_type, suffix)
