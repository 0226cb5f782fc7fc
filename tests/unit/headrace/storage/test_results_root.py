"""The marker of a results root, on a real filesystem. What Kafka says of it is an integration test."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headrace.errors import UsageError
from headrace.storage.results_root import MARKER, open_directory


def test_the_marker_is_made_once_and_found_again(tmp_path: Path) -> None:
    first = open_directory(tmp_path / "deep" / "results")
    again = open_directory(tmp_path / "deep" / "results")
    assert first.id == again.id
    assert [p.name for p in first.path.iterdir()] == [MARKER]
    first.close()
    again.close()


def test_of_many_that_begin_at_once_one_marker_wins(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        roots = list(pool.map(lambda _: open_directory(tmp_path), range(64)))
    assert len({r.id for r in roots}) == 1
    for root in roots:
        root.close()
    assert [p.name for p in tmp_path.iterdir()] == [MARKER]


def test_a_marker_that_is_none_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text("something else")
    with pytest.raises(UsageError, match="not a valid marker"):
        open_directory(tmp_path)
    assert (tmp_path / MARKER).read_text() == "something else"


def test_a_path_that_is_no_directory_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be used"):
        open_directory(tmp_path / "file")


def test_a_root_mounted_anew_is_opened_anew(tmp_path: Path) -> None:
    root = open_directory(tmp_path / "results")
    moved = tmp_path / "moved"
    root.path.rename(moved)
    assert "is gone" in (root.check() or "")
    root.path.mkdir()
    (root.path / MARKER).write_bytes((moved / MARKER).read_bytes())
    assert root.check() is None
    assert root.openings == 2
    assert os.fstat(root.fd).st_ino == root.path.stat().st_ino
    root.close()


def test_a_root_that_is_back_while_the_old_mount_is_stale_is_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(_: int) -> os.stat_result:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    root = open_directory(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", stale)
        assert root.check() is None
    assert root.openings == 2
    assert root.check() is None
    root.close()
