"""Old logs of attempts are removed below the results root, and nothing else is."""

import os
import shutil
import time
import uuid
from pathlib import Path

import pytest

from headrace.storage import attempt_log
from headrace.storage.attempt_log import keep_log, log_file
from headrace.storage.old_logs import remove_old_logs

DAY_S = 86_400


def before() -> float:
    return time.time() - DAY_S


def age(path: Path) -> None:
    """Two days."""
    os.utime(path, (time.time() - 2 * DAY_S,) * 2, follow_symlinks=False)


def old_log(root: Path, task_id: str = "", attempt: int = 1) -> Path:
    """A new task's log, or the given one's, two days old."""
    task_id = task_id or str(uuid.uuid4())
    root.mkdir(exist_ok=True)
    keep_log(root, task_id, attempt, b"printed")
    age(file := log_file(root, task_id, attempt))
    return file


def test_an_old_log_goes_with_its_folder_and_a_young_one_stays(tmp_path: Path) -> None:
    old, mixed = old_log(tmp_path), old_log(tmp_path)
    young = mixed.with_name("2.log")
    keep_log(tmp_path, mixed.parent.name, 2, b"printed")
    assert sum(remove_old_logs(tmp_path, before())) == 2
    assert not old.parent.exists()
    assert [*mixed.parent.iterdir()] == [young]
    assert sum(remove_old_logs(tmp_path, before())) == 0


def test_what_killed_nodes_have_left_goes_too_and_what_is_about_to_be_written_to_stays(tmp_path: Path) -> None:
    half, empty, young = (old_log(tmp_path) for _ in range(3))
    half.rename(half.with_name("1.log.abc.part"))
    for file in (empty, young):
        file.unlink()
    age(empty.parent)
    assert sum(remove_old_logs(tmp_path, before())) == 1
    assert [half.parent.exists(), empty.parent.exists(), young.parent.exists()] == [False, False, True]


def test_what_is_no_log_stays(tmp_path: Path) -> None:
    log = old_log(tmp_path)
    result = tmp_path / "demo" / "1.log"
    others = [log.with_name("notes.txt"), log.with_name("x.log"), log.parent.with_name("readme"), result]
    others += [tmp_path / ".logs" / "note", tmp_path / ".logs" / "more" / str(uuid.uuid4()) / "1.log"]
    for other in others:
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_text("theirs")
        age(other)
    assert sum(remove_old_logs(tmp_path, before())) == 1
    assert not log.exists()
    assert all(other.exists() for other in others)


@pytest.mark.parametrize("linked", [".logs", ".logs/{0:.2}", ".logs/{0:.2}/{0}", ".logs/{0:.2}/{0}/1.log"])
def test_a_link_that_points_elsewhere_is_not_followed(tmp_path: Path, linked: str) -> None:
    """Elsewhere lies a log of just that task, which would be removed if it lay in the results root."""
    task_id = str(uuid.uuid4())
    theirs = old_log(tmp_path / "elsewhere", task_id)
    link = tmp_path / "results" / linked.format(task_id)
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "elsewhere" / linked.format(task_id))
    age(link)
    if linked != ".logs":
        beside = old_log(tmp_path / "results")
    assert sum(remove_old_logs(tmp_path / "results", before())) == (0 if linked == ".logs" else 1)
    assert theirs.exists()
    assert link.is_symlink()
    assert linked == ".logs" or not beside.exists()


def test_of_many_logs_each_step_removes_one_at_most_and_an_end_in_between_is_clean(tmp_path: Path) -> None:
    logs = [old_log(tmp_path, attempt=n % 3 + 1) for n in range(500)]
    fds = len(os.listdir("/proc/self/fd"))
    steps = remove_old_logs(tmp_path, before())
    removed = sum(next(steps) for _ in range(100))
    assert 0 < removed <= 100
    assert sum(log.exists() for log in logs) == 500 - removed
    steps.close()
    assert len(os.listdir("/proc/self/fd")) == fds
    assert sum(remove_old_logs(tmp_path, before())) == 500 - removed
    # The folder that was emptied last, before the end, stays until it is as old as a log.
    assert sum(log.parent.exists() for log in logs) <= 1


def test_two_processes_at_once_remove_each_log_once(tmp_path: Path) -> None:
    logs = [old_log(tmp_path) for _ in range(200)]
    first, second = remove_old_logs(tmp_path, before()), remove_old_logs(tmp_path, before())
    removed = 0
    for step in first:
        removed += step + next(second, False)
    assert removed + sum(second) == 200
    assert not any(log.exists() for log in logs)


def test_files_that_vanish_meanwhile_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task_id = str(uuid.uuid4())
    logs = [old_log(tmp_path, task_id, attempt) for attempt in range(1, 101)]
    other = old_log(tmp_path)
    steps = remove_old_logs(tmp_path, before())
    while sum(log.exists() for log in logs) == 100:
        next(steps)
    shutil.rmtree(logs[0].parent)
    list(steps)
    assert not other.exists()
    assert not caplog.messages


def test_without_logs_or_root_nothing_is_made(tmp_path: Path) -> None:
    assert list(remove_old_logs(tmp_path, before())) == []
    assert list(remove_old_logs(tmp_path / "gone", before())) == []
    assert [*tmp_path.iterdir()] == []


def test_a_log_is_kept_though_its_folder_is_removed_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old attempt's log is the last in the folder when the next attempt ends."""
    old = old_log(tmp_path)
    task_id = old.parent.name
    opened = attempt_log.open_directory_below

    def open_and_remove(*arguments: object, **options: object) -> int:
        fd = opened(*arguments, **options)  # type: ignore[arg-type]
        list(remove_old_logs(tmp_path, before()))
        return fd

    monkeypatch.setattr(attempt_log, "open_directory_below", open_and_remove)
    keep_log(tmp_path, task_id, 2, b"printed")
    assert [p.name for p in old.parent.iterdir()] == ["2.log"]
