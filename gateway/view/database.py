"""The SQLite file behind the status view: its tables, its owner lock and its connections.

Used by the status store. One process owns the file, through a lock that ends with the process; UsageError when another
one holds it. All data comes from the log, so a damaged file or one of another schema is made anew: when it is opened,
and through `remake` when the damage is met later. A file that cannot be used now (a full disk, a lock) raises
sqlite3.OperationalError and is left alone.
"""

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from headrace.storage.rebuilds import Rebuilds
from headrace.storage.sqlite import Damaged, connect, lock, make_tables, open_or_rebuild, remove

from .task_rows import STORED

SCHEMA_VERSION = 2
_PAGES = 2000  # copied at a time
_LOCKED_S = 10.0  # how long a connection waits for another one's lock
_INTEGERS = {
    "submitted_ms",
    "started_ms",
    "ended_ms",
    "received_place",
    "started_place",
    "ended_place",
    "size",
    "queued_ms",
    "duration_ms",
    "outcome_offset",
}
_COLUMNS = ", ".join(f"{c} {'INTEGER' if c in _INTEGERS else 'TEXT'}" for c in STORED[1:])
# The indexes end at the time: without the id they take 64 bytes a task less, and tasks of one millisecond are few.
_SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE positions (topic TEXT, partition INTEGER, next INTEGER NOT NULL,
                        PRIMARY KEY (topic, partition)) WITHOUT ROWID;
CREATE TABLE tasks (id BLOB PRIMARY KEY, {_COLUMNS});
CREATE INDEX tasks_by_time ON tasks (submitted_ms);
CREATE INDEX tasks_by_status ON tasks (status, submitted_ms);
CREATE INDEX tasks_by_name ON tasks (name, submitted_ms);
CREATE INDEX tasks_by_redrive ON tasks (redrive_of) WHERE redrive_of != '';
CREATE INDEX tasks_by_directory ON tasks (directory, submitted_ms);
CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, topic INTEGER, partition INTEGER, offset INTEGER, id BLOB,
                     UNIQUE (topic, partition, offset));
CREATE TABLE progress (id BLOB, offset INTEGER, partition INTEGER, attempt INTEGER, fraction REAL, message TEXT,
                       at_ms INTEGER, PRIMARY KEY (id, offset)) WITHOUT ROWID;
CREATE INDEX progress_by_time ON progress (at_ms);
CREATE TABLE forgotten (id BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE pruned (topic INTEGER, partition INTEGER, next INTEGER NOT NULL,
                     PRIMARY KEY (topic, partition)) WITHOUT ROWID;
"""


class StatusDatabase:
    """The file at `path`, created when missing. `writer` is for one thread; `reader()` returns one for each thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rebuilds = Rebuilds("status view")
        self._lock = lock(
            path,
            f"another gateway uses {path.with_suffix('.lock')}: set another HEADRACE_HTTP or HEADRACE_DATA here",
        )
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._file = 0  # rises when the file is made anew: readers of the one before are of no use
        try:
            self.writer = self._open()
        except BaseException:
            os.close(self._lock)
            raise

    def reader(self) -> sqlite3.Connection:
        """This thread's connection. Damaged when the file lacks its tables, because it was taken away."""
        if getattr(self._local, "file", None) != self._file:
            file, connection = self._file, connect(self.path, timeout_s=_LOCKED_S, autocommit=True)
            self._connections.append(connection)
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
                raise Damaged("the file was taken away")
            self._local.connection, self._local.file = connection, file
        found: sqlite3.Connection = self._local.connection
        return found

    def remake(self, why: str, last_seq: int) -> None:
        """Replaces the file by an empty one, whose events are numbered from `last_seq` on; for the writer's thread.

        Streams that are open know their place by that number, and pass over what they have sent by their vectors.
        """
        self.rebuilds.begin(why)
        self.writer.close()
        remove(self.path)
        self.writer = self._open()
        self.writer.execute("INSERT INTO sqlite_sequence VALUES ('events', ?)", (last_seq,))
        self._file += 1

    def copy_to(self, path: Path, stopped: Callable[[], bool]) -> None:
        """Writes the file as it is now to the new file `path`; InterruptedError when `stopped` says so meanwhile.

        For any thread. Readers and the writer do not wait; the write-ahead log grows meanwhile.
        """

        def check(*_: int) -> None:
            if stopped():
                raise InterruptedError("the gateway stops")

        with closing(connect(self.path, timeout_s=_LOCKED_S, autocommit=True)) as source:
            source.execute("BEGIN")
            source.execute("SELECT count(*) FROM meta").fetchone()  # from here on it sees no later transaction
            with closing(sqlite3.connect(path, isolation_level=None)) as target:
                source.backup(target, pages=_PAGES, progress=check)
                target.execute("PRAGMA journal_mode = DELETE")  # one file, without a write-ahead log

    def load(self, path: Path) -> None:
        """Replaces all content by that of a copy; for the writer's thread, while no stream of events is open.

        Damaged, and nothing has changed, when the copy has other tables.
        """
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as source:
            make_tables(source, _SCHEMA)
            _check_version(source)
            source.backup(self.writer, pages=_PAGES)
        self.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        os.close(self._lock)

    def _open(self) -> sqlite3.Connection:
        writer = open_or_rebuild(
            self.path, _prepare, timeout_s=_LOCKED_S, autocommit=True, on_rebuild=self.rebuilds.begin
        )
        self._connections.append(writer)
        return writer


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA wal_autocheckpoint = 4000")  # pages
    make_tables(connection, _SCHEMA)
    if connection.execute("SELECT 1 FROM meta WHERE key = 'schema'").fetchone() is None:
        connection.execute("INSERT INTO meta VALUES ('schema', ?)", (str(SCHEMA_VERSION),))
    _check_version(connection)


def _check_version(connection: sqlite3.Connection) -> None:
    found = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    if found != (str(SCHEMA_VERSION),):
        raise Damaged(f"schema version {found and found[0]}")
