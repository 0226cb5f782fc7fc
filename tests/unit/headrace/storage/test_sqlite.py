"""SQLite files that are made of the log: opened, made anew, emptied, locked, and asked for ids."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from headrace.errors import UsageError
from headrace.storage.sqlite import (
    Damaged,
    adopt,
    connect,
    in_few_lengths,
    is_damage,
    lock,
    make_tables,
    open_or_rebuild,
    trouble,
)
from tests.rigs.sqlite_files import flip_pages, truncate


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
        raise Damaged(f"schema version {version}")


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
        raise Damaged("always")

    with pytest.raises(Damaged, match="always"):
        open_or_rebuild(path, never)


def make_things(db: sqlite3.Connection) -> None:
    make_tables(db, TABLES, version=3)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE thing ADD COLUMN more TEXT",
        "DROP TABLE thing",
        "CREATE TABLE other (id)",
        "CREATE INDEX i ON thing (id)",
        "PRAGMA user_version = 4",
        "PRAGMA user_version = 0",
    ],
)
def test_a_file_of_another_schema_is_made_anew_whatever_version_it_claims(path: Path, change: str) -> None:
    keep(path, 1)
    with closing(open_or_rebuild(path, make_things)) as db:
        assert things(db) == [1]
    with closing(connect(path)) as db, db:
        db.execute(change)
    whys: list[str] = []
    with closing(open_or_rebuild(path, make_things, on_rebuild=whys.append)) as db:
        assert (things(db), len(whys)) == ([], 1)
    keep(path, 2)


@pytest.mark.parametrize("damage", [flip_pages, truncate])
def test_damage_is_found_while_the_file_is_in_use_and_heals_when_it_is_made_anew(
    path: Path, damage: Callable[[Path], None]
) -> None:
    keep(path, *range(5000))
    with closing(open_or_rebuild(path, prepare)) as db:
        db.execute("PRAGMA cache_size = 1")
        damage(path)
        with pytest.raises(sqlite3.DatabaseError) as found:
            things(db)
    assert is_damage(found.value)


def test_a_text_whose_bytes_have_changed_is_damage() -> None:
    with closing(sqlite3.connect(":memory:")) as db, pytest.raises(sqlite3.Error) as found:
        db.execute("SELECT CAST(X'ff' AS TEXT)").fetchone()
    assert is_damage(found.value)


def test_a_full_disk_is_no_damage_and_says_what_to_do(path: Path) -> None:
    with closing(open_or_rebuild(path, prepare)) as db:
        db.execute("PRAGMA max_page_count = 3")
        with pytest.raises(sqlite3.OperationalError) as full, db:
            db.executemany("INSERT INTO thing VALUES (?)", [(i,) for i in range(10_000)])
        assert not is_damage(full.value)
        assert trouble(full.value) == "the disk is full: make room on it (database or disk is full)"
        db.execute("PRAGMA max_page_count = 1000000")
        assert things(db) == []


def test_a_locked_file_and_a_full_disk_are_never_made_anew_when_they_are_opened(path: Path) -> None:
    keep(path, 1)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked") as locked:
            open_or_rebuild(path, prepare, timeout_s=0)
    assert "end that process" in trouble(locked.value)
    with closing(open_or_rebuild(path, prepare)) as db:
        assert things(db) == [1]


def test_a_disk_that_is_full_when_the_file_is_opened_leaves_the_file_alone(path: Path) -> None:
    """In a process of its own, whose files may not grow."""
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE mine (id)")
    before = path.read_bytes()
    script = (
        "import resource, signal, sqlite3, sys; from pathlib import Path; from headrace.storage.sqlite import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "try: open_or_rebuild(Path(sys.argv[1]), lambda db: db.execute('CREATE TABLE more (id)'))\n"
        "except sqlite3.OperationalError as e: print(trouble(e))"
    )
    words = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert "make room on the disk" in words.stdout, words
    assert path.read_bytes() == before


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
