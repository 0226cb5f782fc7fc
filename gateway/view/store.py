"""The status view on disk: tasks, events and Kafka positions, which change in one transaction.

The view's thread writes through `apply`. Handlers read through the other methods, from any thread, without waiting for
the writer (WAL). `adopt_cluster` empties the view when it belongs to another cluster. Raises sqlite3.Error.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any

import orjson

from headrace.contract.states import Status
from headrace.storage.sqlite import adopt, in_few_lengths

from .database import STORED, StatusDatabase
from .projection import COLUMNS, AttemptView, TaskView, id_text, place_of, values_of

_COLUMNS = ", ".join(STORED)
# Not REPLACE: an update leaves the indexes of unchanged columns alone.
_UPSERT_TASK = (
    f"INSERT INTO tasks ({_COLUMNS}) VALUES ({', '.join('?' * len(STORED))}) "  # noqa: S608
    f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in STORED[1:])}"
)

# Topics whose records become events, in the order of the events of one task. The index in this tuple is stored.
EVENT_TOPICS = ("lifecycle.received", "lifecycle.started", "progress", "lifecycle.completed", "tasks.dead")

NewEvent = tuple[int, int, int, bytes]  # index in EVENT_TOPICS, partition, offset, id
Positions = Mapping[tuple[str, int], int]  # (topic, partition) -> offset of the next record to read


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A record that is an event for listeners of all tasks; `seq` is the order in which this gateway read them."""

    seq: int
    topic: int  # index in EVENT_TOPICS
    partition: int
    offset: int
    id: bytes


@dataclass(frozen=True, slots=True)
class StoredProgress:
    """A progress report; `at_ms` is Kafka's time of its record."""

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
class TaskFilter:
    """Which tasks a list or stream holds; "" and 0 mean any. Times are milliseconds, `until_ms` excluded."""

    status: str = ""
    name: str = ""
    directory: str = ""
    since_ms: int = 0
    until_ms: int = 0
    dead: bool = False  # only tasks that have a dead letter
    reason: str = ""


class StatusStore:
    """The file at `path`, created when missing."""

    def __init__(self, path: Path) -> None:
        self._database = StatusDatabase(path)
        self._writer = self._database.writer

    # --- called by the view's thread alone

    def adopt_cluster(self, identity: str) -> bool:
        """Binds the view to a cluster and prefix. False when it belonged to another one; it is empty then."""
        return adopt(
            self._writer,
            identity,
            ("positions", "tasks", "events", "progress"),
            read_owner="SELECT value FROM meta WHERE key = 'identity'",
            write_owner="INSERT OR REPLACE INTO meta VALUES ('identity', ?)",
        )

    def positions(self) -> dict[tuple[str, int], int]:
        return {(t, p): n for t, p, n in self._writer.execute("SELECT topic, partition, next FROM positions")}

    def get_tasks(self, ids: Sequence[bytes]) -> dict[bytes, TaskView]:
        """The known ones among these tasks, by id."""
        found: dict[bytes, TaskView] = {}
        for part in in_few_lengths(ids):
            marks = ",".join("?" * len(part))
            for row in self._writer.execute(f"SELECT {_COLUMNS} FROM tasks WHERE id IN ({marks})", part):  # noqa: S608
                task = _task_of(row)
                found[task.id] = task
        return found

    def apply(
        self,
        tasks: Iterable[TaskView],
        events: Iterable[NewEvent],
        progress: Iterable[StoredProgress],
        positions: Positions,
    ) -> int:
        """Stores all that a batch of records changes, in one transaction. Returns the last event's `seq`."""
        w = self._writer
        w.execute("BEGIN IMMEDIATE")
        try:
            w.executemany(_UPSERT_TASK, map(_row_of, tasks))
            w.executemany("INSERT OR IGNORE INTO events (topic, partition, offset, id) VALUES (?,?,?,?)", events)
            w.executemany("INSERT OR IGNORE INTO progress VALUES (?,?,?,?,?,?,?)", map(_progress_row_of, progress))
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

    def delete_progress(self, before_ms: int) -> None:
        """Deletes progress reports older than `before_ms`."""
        self._writer.execute("DELETE FROM progress WHERE at_ms < ?", (before_ms,))

    # --- called from any thread

    def get_task(self, task_id: bytes) -> TaskView | None:
        row = self._first_row(f"SELECT {_COLUMNS} FROM tasks WHERE id = ?", task_id)  # noqa: S608
        return _task_of(row) if row else None

    def progress_after(self, task_id: bytes, offset: int, limit: int = 200) -> list[StoredProgress]:
        """The task's reports beyond that offset of its partition, in order."""
        rows = self._rows(
            "SELECT * FROM progress WHERE id = ? AND offset > ? ORDER BY offset LIMIT ?", task_id, offset, limit
        )
        return [StoredProgress(*row) for row in rows]

    def progress_at(self, task_id: bytes, offset: int) -> StoredProgress | None:
        row = self._first_row("SELECT * FROM progress WHERE id = ? AND offset = ?", task_id, offset)
        return StoredProgress(*row) if row else None

    def first_progress(self, task_id: bytes) -> StoredProgress | None:
        row = self._first_row("SELECT * FROM progress WHERE id = ? ORDER BY offset LIMIT 1", task_id)
        return StoredProgress(*row) if row else None

    def last_progress(self, task_id: bytes) -> StoredProgress | None:
        row = self._first_row("SELECT * FROM progress WHERE id = ? ORDER BY offset DESC LIMIT 1", task_id)
        return StoredProgress(*row) if row else None

    def events_after(self, seq: int, limit: int = 500) -> list[StoredEvent]:
        rows = self._rows("SELECT * FROM events WHERE seq > ? ORDER BY seq LIMIT ?", seq, limit)
        return [StoredEvent(*row) for row in rows]

    def seq_before(self, topic: int, partition: int, offset: int) -> int | None:
        """The `seq` just before the first event at or beyond that offset; None when no event lies there."""
        row = self._first_row(
            "SELECT seq FROM events WHERE topic = ? AND partition = ? AND offset >= ? ORDER BY offset LIMIT 1",
            topic,
            partition,
            offset,
        )
        return row[0] - 1 if row else None

    def list_tasks(self, wanted: TaskFilter, before: tuple[int, bytes] | None, limit: int) -> list[TaskView]:
        """Up to `limit` tasks, newest first, from beyond (submitted_ms, id), where the page before ended."""
        where, values = _where(wanted)
        if before:
            where.append("(submitted_ms, id) < (?, ?)")
            values += before
        clause = f"WHERE {' AND '.join(where)}" if where else ""
        sql = f"SELECT {_COLUMNS} FROM tasks {clause} ORDER BY submitted_ms DESC, id DESC LIMIT ?"  # noqa: S608
        return [_task_of(row) for row in self._rows(sql, *values, limit)]

    def redrive_counts(self, ids: Sequence[bytes]) -> dict[bytes, int]:
        """How many times each of these tasks was redriven; a task that never was is left out."""
        sql = "SELECT count(*) FROM tasks WHERE redrive_of = ? AND redrive_of != ''"
        counts = {i: self._rows(sql, id_text(i))[0][0] for i in ids}
        return {i: n for i, n in counts.items() if n}

    def close(self) -> None:
        self._database.close()

    def _rows(self, sql: str, *values: Any) -> list[Any]:
        return self._database.reader().execute(sql, values).fetchall()

    def _first_row(self, sql: str, *values: Any) -> Any:
        return self._database.reader().execute(sql, values).fetchone()


def _where(wanted: TaskFilter) -> tuple[list[str], list[Any]]:
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
_progress_row_of = attrgetter(*(f.name for f in fields(StoredProgress)))


def _row_of(task: TaskView) -> tuple[Any, ...]:
    attempts = orjson.dumps([_attempt_values(a) for a in task.attempts]).decode() if task.attempts else ""
    return (*values_of(task), attempts)


def _task_of(row: Sequence[Any]) -> TaskView:
    task = TaskView(**dict(zip(COLUMNS, row[:-1], strict=True)))
    task.status = Status(task.status)
    task.attempts = [AttemptView(*a) for a in orjson.loads(row[-1])] if row[-1] else []
    return task
