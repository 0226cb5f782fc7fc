"""Results on a real filesystem: whole, inside the root, and removed after a process has died."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.storekeeper.partial_files import PartialFile
from agents.storekeeper.result_store import Blocked, ResultStore, RootExchanged, StoredResult
from headrace.contract.ids import new_id
from headrace.storage.results_root import ResultsRoot, open_directory
from tests.rigs.swapping import swapped

AN_ID = "0f6e3c1a-2b4d-4e8f-9a1b-3c5d7e9f1a2b"  # fixed, where it names a test: every worker must collect the same


@pytest.fixture
def root(tmp_path: Path) -> Iterator[ResultsRoot]:
    root = open_directory(tmp_path / "results")
    yield root
    root.close()


@pytest.fixture
def store(root: ResultsRoot) -> Iterator[ResultStore]:
    store = ResultStore(root)
    store.open()
    yield store
    store.close()


def put(store: ResultStore, directory: str, task: str, suffix: str, data: bytes | PartialFile) -> StoredResult:
    """Stores one result in all steps, as the arbiter does for many."""
    part = store.write_part(data) if isinstance(data, bytes) else data
    store.sync_parts([part])
    try:
        [answer] = store.move_into(directory, [(part, task, suffix)])
        if isinstance(answer, Blocked):
            raise answer
        return answer
    finally:
        store.drop_part(part)


def leftovers(root: ResultsRoot) -> list[Path]:
    return [p for p in (root.path / ".headrace").glob("*/*") if p.name != "lock"]


def test_a_result_is_stored_where_its_task_wanted_it_and_nothing_is_left_over(
    store: ResultStore, root: ResultsRoot
) -> None:
    task = new_id()
    stored = put(store, "team/run-1", task, ".tar.gz", b"bytes")
    assert stored.file == f"team/run-1/{task}.tar.gz"
    assert (root.path / stored.file).read_bytes() == b"bytes"
    assert (stored.size, stored.sha256) == (5, "277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9")
    assert leftovers(root) == []


@pytest.mark.parametrize(
    "directory",
    [
        "",
        ".",
        "..",
        "../x",
        "/etc",
        "a//b",
        "a/../b",
        "a/./b",
        ".hidden",
        "a/.b",
        "a\0b",
        "ä",
        "a b",
        "x" * 201,
        "a/%2e%2e",
        "/".join("a" * 9),
    ],
)
def test_directories_outside_the_rule_are_refused_again_here(
    store: ResultStore, root: ResultsRoot, directory: str
) -> None:
    with pytest.raises(Blocked):
        put(store, directory, new_id(), ".json", b"x")
    assert {p.name for p in root.path.iterdir()} == {".headrace", ".headrace-root"}


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("../x", ".json"), ("no-uuid", ".json"), (AN_ID, "/../x"), (AN_ID, ".a/b"), (AN_ID, "")],
)
def test_invalid_ids_and_suffixes_are_refused(store: ResultStore, name: str, suffix: str) -> None:
    with pytest.raises(Blocked):
        put(store, "demo", name, suffix, b"x")


def test_a_symlinked_directory_is_not_followed(store: ResultStore, root: ResultsRoot, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (root.path / "link").symlink_to(outside)
    (root.path / "a").mkdir()
    (root.path / "a" / "link").symlink_to(outside)
    for directory in ("link", "link/deeper", "a/link"):
        with pytest.raises(Blocked, match="in the way"):
            put(store, directory, new_id(), ".json", b"x")
    assert list(outside.iterdir()) == []
    assert leftovers(root) == []


def test_a_directory_swapped_for_a_symlink_meanwhile_is_not_followed(
    store: ResultStore, root: ResultsRoot, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    (outside / "b").mkdir(parents=True)
    (root.path / "a" / "b").mkdir(parents=True)
    stored = 0
    with swapped(root.path / "a", outside) as turns:
        while turns[0] < 30 or not stored:
            try:
                put(store, "a/b", new_id(), ".json", b"x")
                stored += 1
            except (Blocked, FileNotFoundError):
                pass
    assert [p.name for p in outside.rglob("*")] == ["b"]
    assert len(list(root.path.rglob("*.json"))) == stored


def test_a_planted_symlink_of_the_results_name_is_replaced_and_its_target_untouched(
    store: ResultStore, root: ResultsRoot, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.write_text("untouched")
    task = new_id()
    (root.path / "demo").mkdir()
    (root.path / "demo" / f"{task}.json").symlink_to(target)
    stored = put(store, "demo", task, ".json", b"[]")
    assert not (root.path / stored.file).is_symlink()
    assert (root.path / stored.file).read_bytes() == b"[]"
    assert target.read_text() == "untouched"


def test_a_directory_of_the_results_name_blocks_it_in_words(store: ResultStore, root: ResultsRoot) -> None:
    task = new_id()
    (root.path / "demo" / f"{task}.json").mkdir(parents=True)
    with pytest.raises(Blocked, match="directory of the result's name"):
        put(store, "demo", task, ".json", b"[]")
    assert leftovers(root) == []


def test_storing_the_same_result_again_gives_the_same_file(store: ResultStore, root: ResultsRoot) -> None:
    task = new_id()
    assert put(store, "demo", task, ".json", b"[]") == put(store, "demo", task, ".json", b"[]")
    assert len(list((root.path / "demo").iterdir())) == 1


def test_a_part_that_could_not_be_written_is_as_it_was(store: ResultStore, monkeypatch: pytest.MonkeyPatch) -> None:
    part = store.new_part()
    part.append(b"begin")
    real = os.write

    def full_after_two_bytes(fd: int, data: memoryview) -> int:
        if len(data) <= 2:
            raise OSError(28, "No space left on device")
        return real(fd, data[: len(data) - 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full_after_two_bytes)
        with pytest.raises(OSError, match="No space left"):
            part.append(b"-half")
    part.append(b"-end")
    stored = put(store, "demo", new_id(), ".txt", part)
    assert stored.size == 9
    assert (store._root.path / stored.file).read_bytes() == b"begin-end"


def test_a_dead_processs_folder_is_removed_and_a_living_ones_is_not(root: ResultsRoot) -> None:
    living, dead = ResultStore(root), ResultStore(root)
    living.open()
    dead.open()
    living.new_part()
    dead.new_part()
    os.close(dead._lock)  # as the kernel does for a process that is gone
    dead._lock = -1
    third = ResultStore(root)
    third.open()
    assert len(leftovers(root)) == 1
    living.close()
    third.close()
    assert list((root.path / ".headrace").iterdir()) == []
    os.close(dead._own)


def test_a_symlink_among_the_processes_folders_is_not_followed(root: ResultsRoot, tmp_path: Path) -> None:
    """Others may be able to write in the results root."""
    outside = tmp_path / "outside"
    outside.mkdir()
    first = ResultStore(root)
    first.open()
    (root.path / ".headrace" / "planted").symlink_to(outside)
    second = ResultStore(root)
    second.open()
    assert list(outside.iterdir()) == []
    second.close()
    first.close()


def test_a_symlinked_directory_is_called_a_symlink(store: ResultStore, root: ResultsRoot, tmp_path: Path) -> None:
    (root.path / "team").symlink_to(tmp_path)
    with pytest.raises(Blocked, match="stored as team: a symlink is in the way"):
        put(store, "team/run", new_id(), ".txt", b"x")
    (root.path / "file").write_text("")
    with pytest.raises(Blocked, match="stored as file: something that is not a directory is in the way"):
        put(store, "file/run", new_id(), ".txt", b"x")


def test_a_missing_root_is_reported_and_one_that_came_back_elsewhere_is_an_exchange(
    store: ResultStore, root: ResultsRoot
) -> None:
    assert store.check() is None
    away = root.path.with_name("away")
    root.path.rename(away)
    assert "is gone" in (store.check() or "")
    root.path.mkdir()
    assert "not the results root any more" in (store.check() or "")
    root.path.rmdir()
    away.rename(root.path)
    assert store.check() is None
    # The same root on another mount: a directory with the same marker.
    root.path.rename(away)
    root.path.mkdir()
    (root.path / ".headrace-root").write_bytes((away / ".headrace-root").read_bytes())
    with pytest.raises(RootExchanged):
        store.check()


def test_a_private_folder_that_is_stale_or_removed_is_an_exchange(
    store: ResultStore, root: ResultsRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    fstat = os.fstat

    def stale(fd: int) -> os.stat_result:
        if fd == store._own:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return fstat(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", stale)
        with pytest.raises(RootExchanged):
            store.check()
    assert store.check() is None
    shutil.rmtree(root.path / ".headrace")
    with pytest.raises(RootExchanged):
        store.check()


def test_many_results_are_stored_together_and_one_that_is_blocked_stops_no_other(
    store: ResultStore, root: ResultsRoot
) -> None:
    tasks = [new_id() for _ in range(40)]
    (root.path / "demo" / f"{tasks[7]}.txt").mkdir(parents=True)
    parts = [store.write_part(task.encode()) for task in tasks]
    store.sync_parts(parts)
    wanted = [(part, task, ".txt") for part, task in zip(parts, tasks, strict=True)]
    answers = store.move_into("demo", wanted)
    assert [i for i, a in enumerate(answers) if isinstance(a, Blocked)] == [7]
    assert all((root.path / a.file).read_text() in a.file for a in answers if isinstance(a, StoredResult))
    assert [a for a in store.move_into("demo", wanted) if isinstance(a, StoredResult)] == [
        a for a in answers if isinstance(a, StoredResult)
    ]
