"""The SQLite file behind the status view: its tables, who owns it, and its connections.

Used by the status store. One process owns the file, by a lock that falls free with it. All of it comes from the log, so
a file of another version or a broken one is made anew. Full disks raise sqlite3.OperationalError.
"""

import fcntl
import logging
import sqlite3
import threading
from pathlib import Path
from typing import Any

from gateway.view.projection import COLUMNS
from headrace.errors import UsageError

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
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
    """The file at `path`, made when it is missing. `writer` is for one thread; `reader()` gives each thread its own."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = _lock(path.with_suffix(".lock"))
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self.writer = self._open_current()

    def reader(self) -> sqlite3.Connection:
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            found = self._local.connection = self._connect()
        return found

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        self._lock.close()

    def _open_current(self) -> sqlite3.Connection:
        fresh = not self.path.exists()
        try:
            connection = self._connect()
            if not fresh and _version(connection) == str(SCHEMA_VERSION):
                return connection
        except sqlite3.DatabaseError as e:
            log.warning("the status view %s cannot be used (%s)", self.path, e)
        if not fresh:
            log.warning("the status view %s is made anew from the log", self.path)
        return self._create()

    def _create(self) -> sqlite3.Connection:
        while self._connections:
            self._connections.pop().close()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        connection = self._connect()
        connection.executescript("BEGIN;" + _SCHEMA)
        connection.execute("INSERT INTO meta VALUES ('schema', ?)", (str(SCHEMA_VERSION),))
        connection.execute("COMMIT")
        return connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=10, isolation_level=None, check_same_thread=False)
        self._connections.append(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        # After a power cut the newest transactions may be missing, and their positions: they are read from Kafka again.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
        return connection


def _version(connection: sqlite3.Connection) -> str:
    found = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    return found[0] if found else ""


def _lock(path: Path) -> Any:
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise UsageError(f"another gateway uses {path}: give this one another HEADRACE_HTTP or HEADRACE_DATA") from None
    return file
