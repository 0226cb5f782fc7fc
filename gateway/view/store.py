"""The status view on disk: rows, events and Kafka positions, which change in one transaction.

The view's thread writes through `apply`; handlers read through the other methods, from any thread, without waiting for
the writer (WAL). A view of another cluster than before is emptied by `adopt`. Raises sqlite3.Error.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any

import orjson

from gateway.view.database import STORED, StatusDatabase
from gateway.view.projection import COLUMNS, AttemptView, TaskView, id_text, place_of, values_of
from headrace.contract.states import Status
from headrace.storage.sqlite import adopt, in_few_lengths

_ROW = ", ".join(STORED)
# Not REPLACE: an update leaves alone the indexes of columns that stay as they are.
_PUT = (
    f"INSERT INTO tasks ({_ROW}) VALUES ({', '.join('?' * len(STORED))}) "  # noqa: S608
    f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in STORED[1:])}"
)

# Topics whose records are told as events, in the order of the events of one task. The place in this tuple is stored.
EVENT_TOPICS = ("lifecycle.received", "lifecycle.started", "progress", "lifecycle.completed", "tasks.dead")

NewEvent = tuple[int, int, int, bytes]  # place in EVENT_TOPICS, partition, offset, id
Positions = Mapping[tuple[str, int], int]  # (topic, partition) -> offset of the next record to be read


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A record that is told to listeners of all tasks; `seq` is the order in which this gateway read them."""

    seq: int
    topic: int  # place in EVENT_TOPICS
    partition: int
    offset: int
    id: bytes


@dataclass(frozen=True, slots=True)
class StoredProgress:
    id: bytes
    offset: int
    partition: int
    attempt: int
    fraction: float
    message: str
    at_ms: int

    @property
    def place(self) -> int:
        return place_of(self.partition, self.offset)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which tasks a list is to hold; "" and 0 mean any. Times are milliseconds, `until` excluded."""

    status: str = ""
    name: str = ""
    directory: str = ""
    since_ms: int = 0
    until_ms: int = 0
    dead: bool = False  # only tasks that have a dead letter
    reason: str = ""


class StatusStore:
    """The file at `path`, made when it is missing."""

    def __init__(self, path: Path) -> None:
        self._file = StatusDatabase(path)
        self._writer = self._file.writer

    # --- written by the view's thread alone

    def adopt(self, identity: str) -> bool:
        """Says which cluster and prefix the view is of. False when it was of another one: it is empty then."""
        return adopt(
            self._writer,
            identity,
            ("positions", "tasks", "events", "progress"),
            read_owner="SELECT value FROM meta WHERE key = 'identity'",
            write_owner="INSERT OR REPLACE INTO meta VALUES ('identity', ?)",
        )

    def positions(self) -> dict[tuple[str, int], int]:
        return {(t, p): n for t, p, n in self._writer.execute("SELECT topic, partition, next FROM positions")}

    def rows(self, ids: Sequence[bytes]) -> dict[bytes, TaskView]:
        """The rows of those ids that are known."""
        found: dict[bytes, TaskView] = {}
        for part in in_few_lengths(ids):
            marks = ",".join("?" * len(part))
            for values in self._writer.execute(f"SELECT {_ROW} FROM tasks WHERE id IN ({marks})", part):  # noqa: S608
                row = _row(values)
                found[row.id] = row
        return found

    def apply(
        self,
        rows: Iterable[TaskView],
        events: Iterable[NewEvent],
        progress: Iterable[StoredProgress],
        positions: Positions,
    ) -> int:
        """Everything that a batch of records changes, whole or not at all. Returns the last event's `seq`."""
        w = self._writer
        w.execute("BEGIN IMMEDIATE")
        try:
            w.executemany(_PUT, map(_values, rows))
            w.executemany("INSERT OR IGNORE INTO events (topic, partition, offset, id) VALUES (?,?,?,?)", events)
            w.executemany("INSERT OR IGNORE INTO progress VALUES (?,?,?,?,?,?,?)", map(_progress_values, progress))
            w.executemany(
                "INSERT OR REPLACE INTO positions VALUES (?,?,?)", [(t, p, n) for (t, p), n in positions.items()]
            )
            w.execute("COMMIT")
        except BaseException:
            w.execute("ROLLBACK")
            raise
        return self.last_seq()

    def last_seq(self) -> int:
        found: int | None = self._writer.execute("SELECT max(seq) FROM events").fetchone()[0]
        return found or 0

    def forget_progress(self, before_ms: int) -> None:
        """Drops reports older than their topic keeps them."""
        self._writer.execute("DELETE FROM progress WHERE at_ms < ?", (before_ms,))

    # --- read from any thread

    def row(self, task_id: bytes) -> TaskView | None:
        found = self._file.reader().execute(f"SELECT {_ROW} FROM tasks WHERE id = ?", (task_id,)).fetchone()  # noqa: S608
        return _row(found) if found else None

    def progress_after(self, task_id: bytes, offset: int, limit: int = 200) -> list[StoredProgress]:
        """Reports of one task beyond that offset of its partition, in order."""
        found = self._file.reader().execute(
            "SELECT * FROM progress WHERE id = ? AND offset > ? ORDER BY offset LIMIT ?", (task_id, offset, limit)
        )
        return [StoredProgress(*values) for values in found]

    def progress_at(self, task_id: bytes, offset: int) -> StoredProgress | None:
        found = (
            self._file.reader()
            .execute("SELECT * FROM progress WHERE id = ? AND offset = ?", (task_id, offset))
            .fetchone()
        )
        return StoredProgress(*found) if found else None

    def first_progress(self, task_id: bytes) -> StoredProgress | None:
        found = (
            self._file.reader()
            .execute("SELECT * FROM progress WHERE id = ? ORDER BY offset LIMIT 1", (task_id,))
            .fetchone()
        )
        return StoredProgress(*found) if found else None

    def last_progress(self, task_id: bytes) -> StoredProgress | None:
        found = (
            self._file.reader()
            .execute("SELECT * FROM progress WHERE id = ? ORDER BY offset DESC LIMIT 1", (task_id,))
            .fetchone()
        )
        return StoredProgress(*found) if found else None

    def events_after(self, seq: int, limit: int = 500) -> list[StoredEvent]:
        found = self._file.reader().execute("SELECT * FROM events WHERE seq > ? ORDER BY seq LIMIT ?", (seq, limit))
        return [StoredEvent(*values) for values in found]

    def seq_before(self, topic: int, partition: int, offset: int) -> int | None:
        """The `seq` just before the first event at or beyond that offset; None when there is none beyond it."""
        found = (
            self._file.reader()
            .execute(
                "SELECT seq FROM events WHERE topic = ? AND partition = ? AND offset >= ? ORDER BY offset LIMIT 1",
                (topic, partition, offset),
            )
            .fetchone()
        )
        return found[0] - 1 if found else None

    def tasks(self, wanted: Filter, before: tuple[int, bytes] | None, limit: int) -> list[TaskView]:
        """Tasks newest first, beyond the place (submitted_ms, id) where an earlier page ended."""
        where, values = _where(wanted)
        if before:
            where.append("(submitted_ms, id) < (?, ?)")
            values += before
        clause = f"WHERE {' AND '.join(where)}" if where else ""
        sql = f"SELECT {_ROW} FROM tasks {clause} ORDER BY submitted_ms DESC, id DESC LIMIT ?"  # noqa: S608
        return [_row(v) for v in self._file.reader().execute(sql, (*values, limit))]

    def count(self, wanted: Filter) -> int:
        where, values = _where(wanted)
        clause = f"WHERE {' AND '.join(where)}" if where else ""
        found: int = self._file.reader().execute(f"SELECT count(*) FROM tasks {clause}", values).fetchone()[0]  # noqa: S608
        return found

    def redrives(self, ids: Sequence[bytes]) -> dict[bytes, int]:
        """How many times each of those tasks has been redriven; those that were not are left out."""
        sql = "SELECT count(*) FROM tasks WHERE redrive_of = ? AND redrive_of != ''"
        counts = {i: self._file.reader().execute(sql, (id_text(i),)).fetchone()[0] for i in ids}
        return {i: n for i, n in counts.items() if n}

    def close(self) -> None:
        self._file.close()


def _where(wanted: Filter) -> tuple[list[str], list[Any]]:
    where, values = [], []
    for column in ("status", "name", "directory", "reason"):
        if value := getattr(wanted, column):
            where.append(f"{column} = ?")
            values.append(value)
    if wanted.since_ms:
        where.append("submitted_ms >= ?")
        values.append(wanted.since_ms)
    if wanted.until_ms:
        where.append("submitted_ms < ?")
        values.append(wanted.until_ms)
    if wanted.dead:
        where.append("status IN ('failed', 'cancelled')")
    return where, values


_attempt_values = attrgetter(*(f.name for f in fields(AttemptView)))
_progress_values = attrgetter(*(f.name for f in fields(StoredProgress)))


def _values(row: TaskView) -> tuple[Any, ...]:
    attempts = orjson.dumps([_attempt_values(a) for a in row.attempts]).decode() if row.attempts else ""
    return (*values_of(row), attempts)


def _row(values: Sequence[Any]) -> TaskView:
    row = TaskView(**dict(zip(COLUMNS, values[:-1], strict=True)))
    row.status = Status(row.status)
    row.attempts = [AttemptView(*a) for a in orjson.loads(values[-1])] if values[-1] else []
    return row
