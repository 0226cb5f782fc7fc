"""Paths below a root are opened one segment at a time, and no symlink leads out of it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace.storage.safe_open import open_directory_below, open_file_below


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "root").mkdir()
    fd = os.open(tmp_path / "root", os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture(autouse=True)
def _no_descriptor_is_left_open(root: int) -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


def read(fd: int) -> bytes:
    with open(fd, "rb") as file:
        return file.read()


def path_of(fd: int) -> Path:
    """Where the descriptor's directory is; closes it."""
    path = Path(os.readlink(f"/proc/self/fd/{fd}"))
    os.close(fd)
    return path


def test_a_file_is_opened_where_its_segments_lead(root: int, tmp_path: Path) -> None:
    (tmp_path / "root" / "a" / "b").mkdir(parents=True)
    (tmp_path / "root" / "a" / "b" / "file").write_bytes(b"deep")
    (tmp_path / "root" / "file").write_bytes(b"shallow")
    assert read(open_file_below(root, ["a", "b"], "file")) == b"deep"
    assert read(open_file_below(root, [], "file")) == b"shallow"


@pytest.mark.parametrize("segments", [["missing"], ["a", "missing"], ["file"], ["a"]])
def test_a_file_that_is_missing_is_an_error_and_nothing_is_made(root: int, tmp_path: Path, segments: list[str]) -> None:
    (tmp_path / "root" / "a").mkdir()
    (tmp_path / "root" / "file").write_bytes(b"")
    with pytest.raises((FileNotFoundError, NotADirectoryError)):
        open_file_below(root, segments, "name")
    assert sorted(p.name for p in (tmp_path / "root").rglob("*")) == ["a", "file"]


def as_directory(path: Path) -> None:
    path.mkdir()


def as_fifo(path: Path) -> None:
    os.mkfifo(path)


def as_link(path: Path) -> None:
    (path.parent / "target").write_bytes(b"secret")
    path.symlink_to(path.parent / "target")


@pytest.mark.parametrize("plant", [as_directory, as_fifo, as_link])
def test_only_a_regular_file_is_opened(root: int, tmp_path: Path, plant: Callable[[Path], None]) -> None:
    plant(tmp_path / "root" / "name")
    with pytest.raises(OSError, match=r"not a regular file|Too many levels"):
        open_file_below(root, [], "name")


@pytest.mark.parametrize("make_mode", [None, 0o755])
@pytest.mark.parametrize("link", ["link", "a/link"])
def test_a_symlinked_directory_is_not_followed_and_the_error_names_it(
    root: int, tmp_path: Path, link: str, make_mode: int | None
) -> None:
    outside = tmp_path / "outside"
    (outside / "deeper").mkdir(parents=True)
    (tmp_path / "root" / "a").mkdir()
    (tmp_path / "root" / link).symlink_to(outside)
    with pytest.raises(OSError, match=r"it is a symlink|Too many levels") as caught:
        open_directory_below(root, [*link.split("/"), "deeper", "new"], make_mode=make_mode)
    assert caught.value.filename == link
    assert [p.name for p in outside.rglob("*")] == ["deeper"]


def test_missing_directories_are_made_with_the_mode_and_made_once(root: int, tmp_path: Path) -> None:
    for _ in range(2):
        made = open_directory_below(root, ["a", "b"], make_mode=0o700, durable=True)
        assert path_of(made) == tmp_path / "root" / "a" / "b"
    assert [(tmp_path / "root" / p).stat().st_mode & 0o777 for p in ("a", "a/b")] == [0o700, 0o700]


def test_the_parent_of_a_new_directory_is_synced_only_if_that_is_asked_for(
    root: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(Path(os.readlink(f"/proc/self/fd/{fd}"))))
    os.close(open_directory_below(root, ["fast"], make_mode=0o755))
    os.close(open_directory_below(root, ["a", "b"], make_mode=0o755, durable=True))
    os.close(open_directory_below(root, ["a", "b"], make_mode=0o755, durable=True))
    assert synced == [tmp_path / "root", tmp_path / "root" / "a"]


def test_a_directory_that_another_process_makes_first_is_used(
    root: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir

    def beaten(name: str, mode: int, *, dir_fd: int) -> None:
        mkdir(name, mode, dir_fd=dir_fd)
        mkdir(name, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", beaten)
    assert path_of(open_directory_below(root, ["a"], make_mode=0o755)) == tmp_path / "root" / "a"
