"""The marker of a results root, on a real filesystem. What Kafka says of it is an integration test."""

import errno
import os
import shutil
from collections.abc import Callable
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


def write_nonsense(marker: Path) -> None:
    marker.write_text("nonsense")


def write_a_list(marker: Path) -> None:
    marker.write_text("[1]")


def make_directory(marker: Path) -> None:
    marker.mkdir()


def make_fifo(marker: Path) -> None:
    os.mkfifo(marker)


def make_symlink(marker: Path) -> None:
    marker.symlink_to("/dev/zero")


@pytest.mark.parametrize("plant", [write_nonsense, write_a_list, make_directory, make_fifo, make_symlink])
def test_whatever_stands_in_the_place_of_the_marker_is_a_reason_in_words_and_leaves_no_descriptor(
    tmp_path: Path, plant: Callable[[Path], None]
) -> None:
    root = open_directory(tmp_path / "results")
    root.path.rename(tmp_path / "away")
    root.path.mkdir()
    plant(root.path / MARKER)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        reason = root.check()
        assert reason is not None
        assert MARKER in reason
    with pytest.raises(UsageError):
        open_directory(root.path)
    assert len(os.listdir("/proc/self/fd")) == before
    shutil.rmtree(root.path)
    (tmp_path / "away").rename(root.path)
    assert root.check() is None
    root.close()
