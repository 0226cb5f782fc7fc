"""The SQLite file behind the status view: its tables, its owner lock and its connections.

Used by the status store. One process owns the file, through a lock that ends with the process; UsageError when another
one holds it. All data comes from the log, so a broken file or one of another schema version is rebuilt. A full disk
raises sqlite3.OperationalError.
"""

import os
import sqlite3
import threading
from pathlib import Path

from headrace.storage.sqlite import Damaged, connect, lock, open_or_rebuild

from .projection import COLUMNS

SCHEMA_VERSION = 1
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
STORED = (*COLUMNS, "attempts")
_COLUMNS = ", ".join(f"{c} {'INTEGER' if c in _INTEGERS else 'TEXT'}" for c in STORED[1:])
_SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE positions (topic TEXT, partition INTEGER, next INTEGER NOT NULL,
                        PRIMARY KEY (topic, partition)) WITHOUT ROWID;
CREATE TABLE tasks (id BLOB PRIMARY KEY, {_COLUMNS});
CREATE INDEX tasks_by_time ON tasks (submitted_ms, id);
CREATE INDEX tasks_by_status ON tasks (status, submitted_ms, id);
CREATE INDEX tasks_by_name ON tasks (name, submitted_ms, id);
CREATE INDEX tasks_by_redrive ON tasks (redrive_of) WHERE redrive_of != '';
CREATE INDEX tasks_by_directory ON tasks (directory, submitted_ms, id);
CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, topic INTEGER, partition INTEGER, offset INTEGER, id BLOB,
                     UNIQUE (topic, partition, offset));
CREATE TABLE progress (id BLOB, offset INTEGER, partition INTEGER, attempt INTEGER, fraction REAL, message TEXT,
                       at_ms INTEGER, PRIMARY KEY (id, offset)) WITHOUT ROWID;
CREATE INDEX progress_by_time ON progress (at_ms);
"""


class StatusDatabase:
    """The file at `path`, created when missing. `writer` is for one thread; `reader()` returns one for each thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = lock(
            path,
            f"another gateway uses {path.with_suffix('.lock')}: set another HEADRACE_HTTP or HEADRACE_DATA here",
        )
        self._local = threading.local()
        self.writer = open_or_rebuild(path, _prepare, timeout_s=_LOCKED_S, autocommit=True)
        self._connections = [self.writer]

    def reader(self) -> sqlite3.Connection:
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            found = self._local.connection = connect(self.path, timeout_s=_LOCKED_S, autocommit=True)
            self._connections.append(found)
        return found

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        os.close(self._lock)


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA wal_autocheckpoint = 4000")  # pages
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
        version = f"INSERT INTO meta VALUES ('schema', '{SCHEMA_VERSION}')"  # noqa: S608 - our own number
        connection.executescript(f"BEGIN; {_SCHEMA} {version}; COMMIT;")
    found = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    if found != (str(SCHEMA_VERSION),):
        raise Damaged(f"schema version {found}")
