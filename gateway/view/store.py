"""The status view on disk: tasks, events and Kafka positions, which change in one transaction.

The view's thread writes through `apply`. Handlers read through the other methods, from any thread, without waiting for
the writer (WAL). `adopt_cluster` empties the view when it belongs to another cluster. Raises sqlite3.Error. When the
file turns out to be damaged, in whatever thread, `damage` says so until the view's thread has called `remake`.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from headrace.storage.rebuilds import Rebuilds
from headrace.storage.sqlite import adopt, in_few_lengths, is_damage

from .database import StatusDatabase
from .projection import TaskView, id_text, place_of
from .pruning import Cursor, prune_progress, prune_tasks
from .task_rows import STORED, row_of, task_of

_COLUMNS = ", ".join(STORED)
# Not REPLACE: an update leaves the indexes of unchanged columns alone.
_UPSERT_TASK = (
    f"INSERT INTO tasks ({_COLUMNS}) VALUES ({', '.join('?' * len(STORED))}) "  # noqa: S608
    f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in STORED[1:])}"
)

_IS_FORGOTTEN = "SELECT 1 FROM forgotten WHERE id = ?"

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
        self.damage: str | None = None  # what is wrong with the file, when it must be made anew

    @property
    def rebuilds(self) -> Rebuilds:
        """How often the file was found unusable, and why."""
        return self._database.rebuilds

    # --- called by the view's thread alone

    def adopt_cluster(self, identity: str) -> bool:
        """Binds the view to a cluster and prefix. False when it belonged to another one; it is empty then."""
        with self._noting_damage():
            return adopt(
                self._writer,
                identity,
                ("positions", "tasks", "events", "progress", "forgotten", "pruned"),
                read_owner="SELECT value FROM meta WHERE key = 'identity'",
                write_owner="INSERT OR REPLACE INTO meta VALUES ('identity', ?)",
            )

    def remake(self, last_seq: int) -> None:
        """Replaces a damaged file by an empty one; its events are numbered from `last_seq` on."""
        self._database.remake(self.damage or "", last_seq)
        self.damage = None

    def load(self, copy: Path) -> None:
        """Replaces the view by a copy of another gateway's, while no stream of events is open. Damaged, OSError."""
        self._database.load(copy)

    def positions(self) -> dict[tuple[str, int], int]:
        with self._noting_damage():
            return {(t, p): n for t, p, n in self._writer.execute("SELECT topic, partition, next FROM positions")}

    def get_tasks(self, ids: Sequence[bytes]) -> dict[bytes, TaskView]:
        """The known ones among these tasks, by id."""
        found: dict[bytes, TaskView] = {}
        with self._noting_damage():
            for part in in_few_lengths(ids):
                marks = ",".join("?" * len(part))
                sql = f"SELECT {_COLUMNS} FROM tasks WHERE id IN ({marks})"  # noqa: S608
                found.update((task.id, task) for task in map(task_of, self._writer.execute(sql, part)))
        return found

    def apply(
        self,
        tasks: Iterable[TaskView],
        events: Iterable[NewEvent],
        progress: Iterable[StoredProgress],
        positions: Positions,
    ) -> int:
        """Stores all that a batch of records changes, in one transaction. Returns the last event's `seq`."""
        with self._noting_damage(), self._transaction() as w:
            w.executemany(_UPSERT_TASK, map(row_of, tasks))
            w.executemany("INSERT OR IGNORE INTO events (topic, partition, offset, id) VALUES (?,?,?,?)", events)
            w.executemany("INSERT OR IGNORE INTO progress VALUES (?,?,?,?,?,?,?)", map(_progress_row_of, progress))
            w.executemany(
                "INSERT OR REPLACE INTO positions VALUES (?,?,?)", [(t, p, n) for (t, p), n in positions.items()]
            )
        return self.last_seq()

    def last_seq(self) -> int:
        with self._noting_damage():
            found: int | None = self._writer.execute("SELECT max(seq) FROM events").fetchone()[0]
        return found or 0

    def prune_tasks(self, before_ms: int, after: Cursor) -> Cursor | None:
        """Makes a step of `gateway.view.pruning` through the tasks."""
        with self._noting_damage(), self._transaction() as w:
            return prune_tasks(w, before_ms, after)

    def prune_progress(self, before_ms: int) -> bool:
        """Removes some progress reports older than that; whether there may be more."""
        with self._noting_damage(), self._transaction() as w:
            return prune_progress(w, before_ms)

    def forgotten(self, ids: Iterable[bytes]) -> set[bytes]:
        """Those of these tasks that have left the view."""
        found: set[bytes] = set()
        with self._noting_damage():
            if self._writer.execute("SELECT 1 FROM forgotten LIMIT 1").fetchone() is None:
                return found
            for part in in_few_lengths(list(ids)):
                marks = ",".join("?" * len(part))
                rows = self._writer.execute(f"SELECT id FROM forgotten WHERE id IN ({marks})", part)  # noqa: S608
                found.update(task_id for (task_id,) in rows)
        return found

    # --- called from any thread

    def get_task(self, task_id: bytes) -> TaskView | None:
        with self._noting_damage():
            row = self._first_row(f"SELECT {_COLUMNS} FROM tasks WHERE id = ?", task_id)  # noqa: S608
            return task_of(row) if row else None

    def is_forgotten(self, task_id: bytes) -> bool:
        """Whether the task has left the view because it ended long ago."""
        return self._first_row(_IS_FORGOTTEN, task_id) is not None

    def pruned(self) -> dict[tuple[int, int], int]:
        """By index in EVENT_TOPICS and partition: the offset behind the last event that has left the view."""
        return {(t, p): n for t, p, n in self._rows("SELECT * FROM pruned")}

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
        with self._noting_damage():
            return [task_of(row) for row in self._rows(sql, *values, limit)]

    def redrive_counts(self, ids: Sequence[bytes]) -> dict[bytes, int]:
        """How many times each of these tasks was redriven; a task that never was is left out."""
        sql = "SELECT count(*) FROM tasks WHERE redrive_of = ? AND redrive_of != ''"
        counts = {i: self._rows(sql, id_text(i))[0][0] for i in ids}
        return {i: n for i, n in counts.items() if n}

    def copy_to(self, path: Path, stopped: Callable[[], bool]) -> None:
        """Writes the view as it is now to the new file `path`. InterruptedError when `stopped` says so meanwhile."""
        with self._noting_damage():
            self._database.copy_to(path, stopped)

    @property
    def path(self) -> Path:
        return self._database.path

    def close(self) -> None:
        self._database.close()

    @property
    def _writer(self) -> sqlite3.Connection:
        return self._database.writer

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        w = self._writer
        w.execute("BEGIN IMMEDIATE")
        try:
            yield w
            w.execute("COMMIT")
        except BaseException:
            w.rollback()  # nothing to do where SQLite has rolled back itself, as on a full disk
            raise

    @contextmanager
    def _noting_damage(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as e:
            if is_damage(e):
                self.damage = str(e)
            raise

    def _rows(self, sql: str, *values: Any) -> list[Any]:
        with self._noting_damage():
            return self._database.reader().execute(sql, values).fetchall()

    def _first_row(self, sql: str, *values: Any) -> Any:
        with self._noting_damage():
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


_progress_row_of = attrgetter(*(f.name for f in fields(StoredProgress)))
