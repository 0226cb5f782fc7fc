"""Logs of attempts below the results root."""

import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headrace.storage.attempt_log import LOG_BYTES, keep_log, log_file


def test_the_end_of_a_log_is_kept_below_the_results_root(tmp_path: Path) -> None:
    task_id = str(uuid.uuid4())
    keep_log(tmp_path, task_id, 2, b"x" * LOG_BYTES + b"the end")
    kept = log_file(tmp_path, task_id, 2)
    assert kept == tmp_path / ".logs" / task_id[:2] / task_id / "2.log"
    assert len(kept.read_bytes()) == LOG_BYTES
    assert kept.read_bytes().endswith(b"xthe end")
    assert [p.name for p in kept.parent.iterdir()] == ["2.log"]


def test_a_root_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        keep_log(tmp_path / "gone", str(uuid.uuid4()), 1, b"x")
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("planted", [".logs", ".logs/{0:.2}", ".logs/{0:.2}/{0}"])
def test_no_symlink_on_the_way_is_followed(tmp_path: Path, planted: str) -> None:
    root, elsewhere, task_id = tmp_path / "results", tmp_path / "elsewhere", str(uuid.uuid4())
    elsewhere.mkdir()
    link = root / planted.format(task_id)
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere)
    with pytest.raises(OSError, match=r"it is a symlink|Too many levels"):
        keep_log(root, task_id, 1, b"printed")
    assert not [*elsewhere.iterdir()]


def test_a_symlink_of_the_logs_name_is_replaced_not_followed(tmp_path: Path) -> None:
    task_id, target = str(uuid.uuid4()), tmp_path / "target"
    target.write_text("theirs")
    file = log_file(tmp_path / "results", task_id, 1)
    file.parent.mkdir(parents=True)
    file.symlink_to(target)
    file.with_name("1.log.part").symlink_to(target)
    keep_log(tmp_path / "results", task_id, 1, b"printed")
    assert (file.read_bytes(), file.is_symlink(), target.read_text()) == (b"printed", False, "theirs")


def test_copies_of_a_task_that_end_one_attempt_at_once_leave_one_whole_log(tmp_path: Path) -> None:
    """With one name for what is half-written, one copy published the other's half, and the other failed."""
    task_id = str(uuid.uuid4())
    printed = [bytes([n]) * LOG_BYTES for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            list(pool.map(lambda data: keep_log(tmp_path, task_id, 1, data), printed))
            assert log_file(tmp_path, task_id, 1).read_bytes() in printed
    assert [p.name for p in log_file(tmp_path, task_id, 1).parent.iterdir()] == ["1.log"]


def test_what_a_killed_node_left_half_written_is_removed_once_nobody_can_be_writing_it(tmp_path: Path) -> None:
    task_id = str(uuid.uuid4())
    file = log_file(tmp_path, task_id, 1)
    file.parent.mkdir(parents=True)
    old, new = file.with_name("1.log.old.part"), file.with_name("1.log.new.part")
    for part in (old, new):
        part.write_text("half")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    keep_log(tmp_path, task_id, 1, b"printed")
    assert sorted(p.name for p in file.parent.iterdir()) == ["1.log", "1.log.new.part"]
