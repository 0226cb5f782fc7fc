"""The audit's own fold of the log: what has become of each task, in a SQLite file with the offsets it was read up to.

It shares no code with the query, so that each can be held against the other. A task stays in it until its end is
WINDOW_MS old, so the file grows with the tasks that are open, not with those ever run. Killed at any time it goes on
where it stopped. Records that are no events of their topic are passed over.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from headrace.contract.ids import id_of_key
from headrace.contract.journal import Claim, decode_journal
from headrace.contract.records import Place, Record, Source
from headrace.errors import Undecodable

_ATTEMPTS_TOLD = 62  # apart from one another, in one integer; no task has so many
WINDOW_MS = 600_000  # PROTOCOL: repeats are told within ten minutes at least
EVENTS = {
    "lifecycle.received": "received",
    "lifecycle.started": "started",
    "lifecycle.completed": "completed",
    "tasks.dead": "dead",
}
TOPICS = (*EVENTS, "tasks.running")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS positions (
  topic TEXT, partition INT, next INT, PRIMARY KEY (topic, partition)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tasks (
  id BLOB PRIMARY KEY, partition INT, received INT, ended INT, how TEXT, starts INT, topic TEXT, place INT, source INT,
  missed INT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS closed ON tasks (ended) WHERE ended IS NOT NULL AND received IS NOT NULL;
CREATE INDEX IF NOT EXISTS unended ON tasks (received) WHERE ended IS NULL;
CREATE INDEX IF NOT EXISTS unreceived ON tasks (ended) WHERE received IS NULL;
CREATE INDEX IF NOT EXISTS missed ON tasks (missed) WHERE missed > 0;
CREATE TABLE IF NOT EXISTS claims (key TEXT, id BLOB, PRIMARY KEY (key, id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS claimed ON claims (id);
CREATE TABLE IF NOT EXISTS totals (event TEXT PRIMARY KEY, n INT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS minutes (minute INT, event TEXT, n INT, PRIMARY KEY (minute, event)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS repeats (id BLOB, event TEXT, at INT, PRIMARY KEY (id, event)) WITHOUT ROWID;
CREATE TEMP TABLE wanted (id BLOB PRIMARY KEY);
CREATE TEMP TABLE waiting (topic TEXT, partition INT, next INT, stop INT, PRIMARY KEY (topic, partition));
"""


@dataclass(slots=True)
class _Task:
    id: bytes
    partition: int
    received: int | None = None  # ms, of its first record
    ended: int | None = None
    how: str | None = None  # completed or dead
    starts: int = 0  # a bit for each attempt
    topic: str = ""  # the source record of its submission
    place: int = -1
    source: int = -1
    missed: int = 0  # audits in a row that have not found it anywhere

    def row(self) -> tuple[object, ...]:
        return (
            self.id,
            self.partition,
            self.received,
            self.ended,
            self.how,
            self.starts,
            self.topic,
            self.place,
            self.source,
            self.missed,
        )


@dataclass(frozen=True, slots=True)
class Half:
    """A task of which only a part of the story is known: received and not ended, or the other way round."""

    id: bytes
    partition: int
    missed: int


class Fold:
    """One a process; used by one thread. `next_offsets` says where to read on."""

    def __init__(self, file: Path) -> None:
        self._db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        self._db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -8000;")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        self._db.close()

    def next_offsets(self) -> dict[Place, int]:
        return {(t, p): n for t, p, n in self._db.execute("SELECT topic, partition, next FROM positions")}

    def add(self, records: Sequence[Record]) -> None:
        """Folds records of TOPICS, each partition's in order, and the offsets after them, as one transaction."""
        events = [(EVENTS[r.topic], r, task_id) for r in records if r.topic in EVENTS and (task_id := _id_of(r))]
        counted: dict[tuple[str, int], int] = {}
        self._db.execute("BEGIN")
        try:
            tasks = self._load({task_id for _, _, task_id in events})
            for event, record, task_id in events:
                task = tasks.setdefault(task_id, _Task(task_id, record.partition))
                if _first(task, event, record):
                    key = event, record.timestamp_ms // 60_000
                    counted[key] = counted.get(key, 0) + 1
                elif event != "started" or _attempt(record):
                    self._db.execute(
                        "INSERT OR IGNORE INTO repeats VALUES (?, ?, ?)", (task_id, event, record.timestamp_ms)
                    )
            self._db.executemany(
                "REPLACE INTO tasks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (t.row() for t in tasks.values())
            )
            for record in records:
                if record.topic == "tasks.running":
                    self._claim(record)
            self._count(counted)
            ends = {(r.topic, r.partition): r.offset + 1 for r in records}
            self._db.executemany("REPLACE INTO positions VALUES (?, ?, ?)", ((*p, n) for p, n in ends.items()))
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise

    def forget_closed(self, now_ms: int) -> None:
        """Drops tasks whose story has been whole for WINDOW_MS, and old minutes."""
        self._db.execute(
            "DELETE FROM tasks WHERE ended < ? AND ended IS NOT NULL AND received IS NOT NULL", (now_ms - WINDOW_MS,)
        )
        self._db.execute("DELETE FROM minutes WHERE minute < ?", (now_ms // 60_000 - 120,))

    def missing(self, before_ms: int, waiting: dict[Place, tuple[int, int]]) -> list[Half]:
        """Received before then, not ended, not claimed, and their submission not among those that wait.

        `waiting`: by partition the committed offset and the end.
        """
        self._db.execute("DELETE FROM waiting")
        self._db.executemany("INSERT INTO waiting VALUES (?, ?, ?, ?)", ((*p, *n) for p, n in waiting.items()))
        found = self._db.execute(
            "SELECT id, partition, missed FROM tasks t WHERE received <= ? AND ended IS NULL"
            " AND NOT EXISTS (SELECT 1 FROM claims c WHERE c.id = t.id)"
            " AND NOT EXISTS (SELECT 1 FROM waiting w WHERE w.topic = t.topic AND w.partition = t.place"
            " AND t.source >= w.next AND t.source < w.stop)",
            (before_ms,),
        )
        return [Half(*row) for row in found]

    def unreceived(self, before_ms: int) -> list[Half]:
        """Ended before then, and never received."""
        found = self._db.execute(
            "SELECT id, partition, missed FROM tasks WHERE received IS NULL AND ended <= ?", (before_ms,)
        )
        return [Half(*row) for row in found]

    def mark_missed(self, ids: Iterable[bytes]) -> None:
        """One more audit has not found these; for all others the count starts over."""
        wanted = [(i,) for i in ids]
        self._db.execute("BEGIN")
        self._db.execute("DELETE FROM wanted")
        self._db.executemany("INSERT OR IGNORE INTO wanted VALUES (?)", wanted)
        self._db.execute("UPDATE tasks SET missed = 0 WHERE missed > 0 AND id NOT IN (SELECT id FROM wanted)")
        self._db.execute("UPDATE tasks SET missed = missed + 1 WHERE id IN (SELECT id FROM wanted)")
        self._db.execute("COMMIT")

    def drop(self, task_id: bytes, repeated: str, at_ms: int) -> None:
        """The log says that this row was made by a repeat of an older event."""
        self._db.execute("INSERT OR IGNORE INTO repeats VALUES (?, ?, ?)", (task_id, repeated, at_ms))
        self._db.execute("DELETE FROM tasks WHERE id = ?", (task_id,))
        self._db.execute("UPDATE totals SET n = n - 1 WHERE event = ?", (repeated,))

    def totals(self) -> dict[str, int]:
        """Distinct events ever, by name; and `running` and `open` as of now."""
        found = dict.fromkeys(EVENTS.values(), 0) | dict(self._db.execute("SELECT event, n FROM totals"))
        [found["open"]] = self._db.execute(
            "SELECT COUNT(*) FROM tasks WHERE ended IS NULL AND received IS NOT NULL"
        ).fetchone()
        [found["running"]] = self._db.execute(
            "SELECT COUNT(DISTINCT c.id) FROM claims c JOIN tasks t ON t.id = c.id WHERE t.ended IS NULL"
        ).fetchone()
        return found

    def minutes(self, first: int, last: int) -> dict[tuple[int, str], int]:
        """Distinct events by minute since the epoch, from `first` on, before `last`."""
        found = self._db.execute("SELECT minute, event, n FROM minutes WHERE minute >= ? AND minute < ?", (first, last))
        return {(minute, event): n for minute, event, n in found}

    def repeats(self) -> list[tuple[bytes, str, int]]:
        """(id, event, when) of repeats that have not been told yet."""
        return self._db.execute("SELECT id, event, at FROM repeats").fetchall()

    def told(self, repeats: Iterable[tuple[bytes, str, int]]) -> None:
        self._db.executemany("DELETE FROM repeats WHERE id = ? AND event = ?", ((i, e) for i, e, _ in repeats))

    def _load(self, ids: set[bytes]) -> dict[bytes, _Task]:
        self._db.execute("DELETE FROM wanted")
        self._db.executemany("INSERT INTO wanted VALUES (?)", ((i,) for i in ids))
        return {row[0]: _Task(*row) for row in self._db.execute("SELECT t.* FROM wanted w JOIN tasks t ON t.id = w.id")}

    def _count(self, counted: dict[tuple[str, int], int]) -> None:
        for (event, minute), n in counted.items():
            self._db.execute(
                "INSERT INTO totals VALUES (?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n", (event, n)
            )
            self._db.execute(
                "INSERT INTO minutes VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n", (minute, event, n)
            )

    def _claim(self, record: Record) -> None:
        try:
            found = decode_journal(record)
        except Undecodable:
            return
        key = str(found.key)
        self._db.execute("DELETE FROM claims WHERE key = ?", (key,))
        if isinstance(found, Claim):
            rows = [(key, UUID(t.id).bytes) for t in found.tasks]
            self._db.executemany("INSERT OR IGNORE INTO claims VALUES (?, ?)", rows)


def _first(task: _Task, event: str, record: Record) -> bool:
    """Takes the event up; False for one that was there before, or that cannot be read."""
    if event == "received":
        if task.received is not None:
            return False
        task.received = record.timestamp_ms
        try:
            source = Source.parse(record.text("source", ""))
            task.topic, task.place, task.source = source.topic, source.partition, source.offset
        except Undecodable:
            pass  # then only claims and queues can say that it lives
        return True
    if event == "started":
        attempt = _attempt(record)
        if not 0 < attempt <= _ATTEMPTS_TOLD:
            return attempt > 0
        bit = 1 << attempt
        if task.starts & bit:
            return False
        task.starts |= bit
        return True
    if task.ended is not None:
        return False
    task.ended, task.how, task.missed = record.timestamp_ms, event, 0
    return True


def _attempt(record: Record) -> int:
    """0 when it cannot be read."""
    try:
        return record.number("attempt")
    except Undecodable:
        return 0


def _id_of(record: Record) -> bytes | None:
    found = id_of_key(record.key) or (id_of_key(record.value) if record.topic != "tasks.dead" else None)
    return UUID(found).bytes if found else None
