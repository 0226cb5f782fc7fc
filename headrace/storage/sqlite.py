"""SQLite files that hold only what can be read from Kafka again: opened or rebuilt, locked, emptied for another log.

Used by the worker's cancellations, the storekeeper's index of terminal tasks, the gateway's status view and the audit.
Each keeps its rows and the log positions that they stand for in one transaction. So a file that is damaged, of another
schema or of another cluster costs no more than reading the log again. `is_damage` tells such a file from one that
cannot be used now, because the disk is full or another process holds it: nothing is rebuilt then, and the caller tries
again. Raises sqlite3.Error.
"""

import fcntl
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from headrace.errors import UsageError

log = logging.getLogger(__name__)

_LENGTHS = (1, 8, 64, 500)
_SUFFIXES = ("", "-wal", "-shm")
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_WAITS_FOR = {
    sqlite3.SQLITE_FULL: "the disk is full: make room on it",
    sqlite3.SQLITE_BUSY: "another process has locked it: end that process, or its transaction",
    sqlite3.SQLITE_LOCKED: "another connection has locked it",
    sqlite3.SQLITE_IOERR: "it cannot be read or written: make room on the disk, and check it",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check the folder and its permissions",
    sqlite3.SQLITE_READONLY: "it cannot be written: check its permissions, and whether the disk is mounted read-only",
    sqlite3.SQLITE_PERM: "it cannot be opened: check its permissions",
}


class Damaged(sqlite3.DatabaseError):
    """The file does not hold what was written to it, or has other tables: only making it anew helps."""


def is_damage(error: BaseException) -> bool:
    """Whether the file itself is at fault, so that the next try would fail as well; else it may be used later."""
    if isinstance(error, Damaged):
        return True
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # Python's own error for a text whose bytes have changed
        return isinstance(error, sqlite3.OperationalError) and str(error).startswith("Could not decode")
    return code & 0xFF in _DAMAGE or code == sqlite3.SQLITE_IOERR_SHORT_READ


def trouble(error: sqlite3.Error) -> str:
    """What is wrong with a file, for people: what to change, when a person can change it."""
    code = getattr(error, "sqlite_errorcode", None)
    words = None if code is None else _WAITS_FOR.get(code & 0xFF)
    return str(error) if words is None or is_damage(error) else f"{words} ({error})"


def connect(path: Path, *, timeout_s: float = 5.0, autocommit: bool = False) -> sqlite3.Connection:
    """A connection for any thread, one at a time, that waits `timeout_s` for another's lock. Readers do not wait (WAL).

    After a power cut the newest transactions may be missing, each as a whole: rows and positions stay in step, and the
    log has the rest. `autocommit`: the caller begins transactions itself.
    """
    connection = sqlite3.connect(path, timeout=timeout_s, check_same_thread=False)
    try:
        if autocommit:
            connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


def open_or_rebuild(
    path: Path,
    prepare: Callable[[sqlite3.Connection], None],
    *,
    timeout_s: float = 5.0,
    autocommit: bool = False,
    on_rebuild: Callable[[str], None] = lambda _: None,
) -> sqlite3.Connection:
    """The database at `path` with its tables; a file that is damaged, or of another schema, is made anew, empty.

    `prepare` makes the tables of an empty file, and raises Damaged for a file with other ones (`make_tables` does).
    `on_rebuild` is called with the reason when the file is made anew. Raises sqlite3.OperationalError, and leaves the
    file alone, when it cannot be used now: disk full, locked, no permission.
    """

    def opened() -> sqlite3.Connection:
        connection = connect(path, timeout_s=timeout_s, autocommit=autocommit)
        try:
            prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return opened()
    except sqlite3.DatabaseError as e:
        # SQLITE_ERROR: a statement of `prepare` does not fit the tables that are there.
        if not (is_damage(e) or getattr(e, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR):
            raise
        log.warning("%s cannot be used (%s): it is made anew from Kafka's log", path, e)
        on_rebuild(str(e))
    remove(path)
    return opened()


def remove(path: Path) -> None:
    """Removes the file with its write-ahead log. Connections to it must be closed, or never be used again."""
    for suffix in _SUFFIXES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def make_tables(connection: sqlite3.Connection, schema: str, version: int = 0) -> None:
    """Makes the tables and indexes of `schema`, with that `user_version`, in an empty file.

    Raises Damaged when the file has others, or another version.
    """
    found = _tables(connection)
    if not found:
        connection.executescript(f"BEGIN; {schema} PRAGMA user_version = {int(version)}; COMMIT;")
        return
    found_version = connection.execute("PRAGMA user_version").fetchone()[0]
    with closing(sqlite3.connect(":memory:")) as wanted:
        wanted.executescript(schema)
        if found_version != version or found != _tables(wanted):
            raise Damaged(f"schema version {found_version}, or tables of another release")


def _tables(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    own = "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
    return connection.execute(own).fetchall()


def lock(path: Path, in_use: str) -> int:
    """A descriptor that holds the lock file beside `path` until it is closed or the process ends.

    UsageError with the words `in_use` while another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise UsageError(in_use) from None
    return fd


def adopt(
    connection: sqlite3.Connection,
    installation: str,
    tables: Iterable[str],
    *,
    read_owner: str = "SELECT name FROM cluster",
    write_owner: str = "INSERT INTO cluster VALUES (?)",
) -> bool:
    """Empties `tables` and records `installation` as the owner, unless it is the owner already.

    `installation` is as `headrace.kafka.metadata.installation` gives it. The two statements say where the file keeps
    its owner; a table that holds nothing else belongs in `tables`. False when the file had another owner before.
    """
    owner = connection.execute(read_owner).fetchone()
    if owner == (installation,):
        return True
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        for table in tables:
            connection.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names
        connection.execute(write_owner, (installation,))
    return owner is None


def in_few_lengths(ids: Sequence[bytes]) -> Iterator[list[bytes]]:
    """All ids for `WHERE id IN (?, …)`, up to 500 at a time, padded to one of four lengths by repeating the last id.

    A connection caches its last 128 statements, and each length is a statement of its own, of tens of kB where it is
    long: with a length for every count of ids the cache took 13 MB.
    """
    for at in range(0, len(ids), _LENGTHS[-1]):
        part = list(ids[at : at + _LENGTHS[-1]])
        length = next(n for n in _LENGTHS if n >= len(part))
        yield part + part[-1:] * (length - len(part))
