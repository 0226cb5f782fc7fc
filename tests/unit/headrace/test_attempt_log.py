"""Where attempts' logs are kept."""

import uuid
from pathlib import Path

import pytest

from headrace.attempt_log import LOG_BYTES, keep_log, log_file


def test_the_end_of_a_log_is_kept_below_the_results_root(tmp_path: Path) -> None:
    task_id = str(uuid.uuid4())
    keep_log(tmp_path, task_id, 2, b"x" * LOG_BYTES + b"the end")
    kept = log_file(tmp_path, task_id, 2)
    assert kept == tmp_path / ".logs" / task_id[:2] / task_id / "2.log"
    assert len(kept.read_bytes()) == LOG_BYTES
    assert kept.read_bytes().endswith(b"xthe end")
    assert [p.name for p in kept.parent.iterdir()] == ["2.log"]


def test_a_root_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        keep_log(tmp_path / "gone", str(uuid.uuid4()), 1, b"x")
    assert not (tmp_path / "gone").exists()
