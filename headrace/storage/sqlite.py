"""SQLite files that hold only what can be read from Kafka again: opened or rebuilt, locked, emptied for another log.

Used by the worker's cancellations, the storekeeper's index of terminal tasks and the gateway's status view. Each keeps
its rows and the log positions that they stand for in one transaction. So a file that is broken, of another version or
of another cluster costs no more than reading the log again. A full disk raises sqlite3.OperationalError.
"""

import fcntl
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from headrace.errors import UsageError

log = logging.getLogger(__name__)

_LENGTHS = (1, 8, 64, 500)


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
) -> sqlite3.Connection:
    """The database at `path` with its tables; a file that cannot be used is removed and made anew, empty.

    `prepare` makes the tables of an empty file, and raises sqlite3.DatabaseError for a file of another version.
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
        log.warning("%s cannot be used (%s): it is made anew from Kafka's log", path, e)
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return opened()


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
