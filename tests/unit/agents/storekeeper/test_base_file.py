"""Base files of the terminal index: sorted ids that are merged, asked for, aged and checked."""

import os
from pathlib import Path

import pytest

from agents.storekeeper.base_file import BaseFile, Entry, write_base
from headrace.storage.sqlite import Damaged


def ids(count: int) -> list[bytes]:
    return [os.urandom(16) for _ in range(count)]


def written(
    path: Path, added: list[Entry], old: BaseFile | None = None, kept: dict[int, int] | None = None
) -> BaseFile:
    write_base(path, "cluster-1 one.", 3, (len(added), 0), old, added, kept or {})
    return BaseFile(path)


def test_a_merged_file_has_the_ids_of_both_once_and_no_others(tmp_path: Path) -> None:
    first, second = ids(3000), ids(700)
    old = written(tmp_path / "old", [(i, 0, n) for n, i in enumerate(first)])
    both = written(tmp_path / "both", [(i, 1, n) for n, i in enumerate([*second, *first[:50]])], old)
    assert both.head.entries == 3700
    assert all(i in both for i in [*first, *second])
    assert not any(i in both for i in ids(500))
    assert [b for b in ids(1) if b in old] == []


def test_an_id_that_lies_across_two_entries_is_not_found(tmp_path: Path) -> None:
    entries = [(bytes([0] * 16), 0, 5), (bytes([1] * 16), 0, 6)]
    base = written(tmp_path / "base", entries)
    assert bytes([0] * 8) + (5 << 1).to_bytes(8, "big") not in base
    assert bytes([0] * 16) in base


def test_events_before_the_first_that_is_remembered_are_left_out(tmp_path: Path) -> None:
    some = ids(1000)
    old = written(tmp_path / "old", [(i, n % 2, n) for n, i in enumerate(some)])
    new = written(tmp_path / "new", [], old, {0: 400, 1: 500})
    assert [n for n, i in enumerate(some) if i in new] == [n for n in range(1000) if n >= (400, 500)[n % 2]]


@pytest.mark.parametrize("cut", [1, 24, 24 * 256])
def test_a_file_that_was_cut_or_changed_is_damaged(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "base"
    written(path, [(i, 0, n) for n, i in enumerate(ids(1000))]).close()
    os.truncate(path, path.stat().st_size - cut)
    with pytest.raises(Damaged):
        BaseFile(path)


def test_a_block_that_changes_while_the_file_is_used_is_damaged(tmp_path: Path) -> None:
    some = ids(1000)
    base = written(tmp_path / "base", [(i, 0, n) for n, i in enumerate(some)])
    with (tmp_path / "base").open("r+b") as f:
        f.seek(5000)
        f.write(b"\0" * 24)
    with pytest.raises(Damaged):
        _ = [i in base for i in some]


def test_a_file_of_another_version_or_of_something_else_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "base"
    written(path, [(i, 0, n) for n, i in enumerate(ids(10))]).close()
    for raw in (path.read_bytes().replace(b'"version":1', b'"version":9', 1), b"", b"no index at all\n" * 500):
        path.write_bytes(raw)
        with pytest.raises(Damaged):
            BaseFile(path)
