"""SQLite files that are made of the log: opened, made anew, emptied, locked, and asked for ids."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from headrace.errors import UsageError
from headrace.storage.sqlite import adopt, connect, in_few_lengths, lock, open_or_rebuild


@pytest.mark.parametrize("count", [0, 1, 2, 8, 9, 64, 65, 499, 500, 501, 1203])
def test_all_ids_come_and_no_others_in_parts_of_a_few_lengths(count: int) -> None:
    ids = [n.to_bytes(16) for n in range(count)]
    parts = list(in_few_lengths(ids))
    assert list(dict.fromkeys(i for part in parts for i in part)) == ids
    assert {len(part) for part in parts} <= {1, 8, 64, 500}


TABLES = "CREATE TABLE thing (id INTEGER); CREATE TABLE cluster (name TEXT);"


def prepare(db: sqlite3.Connection) -> None:
    """Version 3; of another one it is no use."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        db.executescript(f"BEGIN; {TABLES} PRAGMA user_version = 3; COMMIT;")
    elif version != 3:
        raise sqlite3.DatabaseError(f"schema version {version}")


def things(db: sqlite3.Connection) -> list[int]:
    return [n for (n,) in db.execute("SELECT id FROM thing ORDER BY id")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "kept.sqlite"


def keep(path: Path, *ids: int) -> None:
    with closing(open_or_rebuild(path, prepare)) as db, db:
        db.executemany("INSERT INTO thing VALUES (?)", [(i,) for i in ids])


def test_what_was_kept_is_there_when_the_file_is_opened_again(path: Path) -> None:
    keep(path, 1, 2)
    with closing(open_or_rebuild(path, prepare)) as db:
        assert things(db) == [1, 2]
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize("broken", [b"this is no database" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_broken_file_is_made_anew_with_all_that_belongs_to_it(path: Path, broken: bytes) -> None:
    path.parent.mkdir()
    for suffix in ("", "-wal"):
        path.with_name(path.name + suffix).write_bytes(broken)
    with closing(open_or_rebuild(path, prepare)) as db:
        assert things(db) == []
    keep(path, 1)


def test_a_file_of_another_version_is_made_anew(path: Path) -> None:
    keep(path, 1)
    with closing(connect(path)) as db:
        db.execute("PRAGMA user_version = 2")
    with closing(open_or_rebuild(path, prepare)) as db:
        assert things(db) == []


def test_a_file_that_cannot_be_made_is_an_error(path: Path) -> None:
    def never(_: sqlite3.Connection) -> None:
        raise sqlite3.DatabaseError("disk I/O error")

    with pytest.raises(sqlite3.DatabaseError, match="disk I/O"):
        open_or_rebuild(path, never)


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_file_of_another_installation_is_emptied_and_says_so(path: Path, autocommit: bool) -> None:
    with closing(open_or_rebuild(path, prepare, autocommit=autocommit)) as db:
        assert adopt(db, "c1 a.", ("thing", "cluster")), "nobody's before"
        db.execute("INSERT INTO thing VALUES (1)")
        db.commit()
        assert adopt(db, "c1 a.", ("thing", "cluster"))
        assert things(db) == [1]
        assert not adopt(db, "c1 b.", ("thing", "cluster"))
        assert things(db) == []
        assert adopt(db, "c1 b.", ("thing", "cluster"))
        assert not db.in_transaction


def test_an_emptying_that_fails_changes_nothing(path: Path) -> None:
    with closing(open_or_rebuild(path, prepare, autocommit=True)) as db:
        adopt(db, "c1 a.", ("thing", "cluster"))
        db.execute("INSERT INTO thing VALUES (1)")
        with pytest.raises(sqlite3.OperationalError):
            adopt(db, "c1 b.", ("thing", "cluster", "missing"))
        assert (things(db), adopt(db, "c1 a.", ("thing", "cluster"))) == ([1], True)


def test_a_locked_file_is_refused_in_the_callers_words_until_it_is_free(path: Path) -> None:
    held = lock(path, "somebody uses it")
    with pytest.raises(UsageError, match="somebody uses it"):
        lock(path, "somebody uses it")
    os.close(held)
    os.close(lock(path, "somebody uses it"))
