"""The audit's own projection of the log: the state of each task, in a SQLite file with the offsets read so far.

It shares no code with the query, so that each can check the other. A task stays in the file until its end is WINDOW_MS
old, so the file grows with the open tasks only. After a kill at any point it goes on where it stopped. Records that are
not events of their topic are passed over and counted; no record ends the audit. Raises sqlite3.Error; `remake` replaces
a damaged file.
"""

import logging
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from headrace.contract.ids import id_of_key
from headrace.contract.journal import Claim, decode_journal
from headrace.contract.records import Place, Record
from headrace.errors import Undecodable
from headrace.process.throttled_log import log_throttled
from headrace.storage.rebuilds import Rebuilds
from headrace.storage.sqlite import adopt, is_damage, open_or_rebuild, remove

from .copies import Copies
from .schema import TABLES, prepare
from .task_row import TaskRow, attempt_of, submission_source

log = logging.getLogger(__name__)

WINDOW_MS = 600_000  # the protocol (docs/protocol.md): repeats are reported for ten minutes at least
EVENTS = {
    "lifecycle.received": "received",
    "lifecycle.started": "started",
    "lifecycle.completed": "completed",
    "tasks.dead": "dead",
}
TOPICS = (*EVENTS, "tasks.running")


@dataclass(frozen=True, slots=True)
class PartialTask:
    """A task with only a part of its events: received and not ended, or ended and never received.

    `missed` counts the audits in a row that did not find the rest.
    """

    id: bytes
    partition: int
    missed: int


class AuditProjection:
    """One for each process, used by one thread. Every time is in milliseconds since the epoch."""

    def __init__(self, file: Path, on_passed_over: Callable[[str], None] = lambda _: None) -> None:
        """`on_passed_over` is called with the topic of each record that is not what its topic holds."""
        self._file, self._on_passed_over = file, on_passed_over
        self.rebuilds = Rebuilds("audit")
        self._db = self._open()
        self.copies = Copies(self._db)

    def close(self) -> None:
        self._db.close()

    def remake(self, why: str) -> None:
        """Replaces a damaged file by an empty one: the log is read again from its beginning."""
        log.warning("the audit's file %s is damaged (%s): it is made anew from Kafka's log", self._file, why)
        self.rebuilds.begin(why)
        self._db.close()
        remove(self._file)
        self._db = self._open()
        self.copies = Copies(self._db)

    def adopt(self, cluster: str) -> None:
        """Empties the file if it belongs to another cluster or prefix than `cluster`."""
        if not adopt(self._db, cluster, TABLES):
            log.warning(
                "the audit's file %s was of another Kafka cluster: it is filled from this one's log", self._file
            )

    def next_offsets(self) -> dict[Place, int]:
        """Where to read on in each partition that has been read before."""
        return {(t, p): n for t, p, n in self._db.execute("SELECT topic, partition, next FROM positions")}

    def add_records(self, records: Sequence[Record]) -> None:
        """Adds records of TOPICS, in order within a partition, and the offsets after them, in one transaction.

        A record that cannot be added, for whatever reason but the file's, is passed over and counted.
        """
        try:
            with self._transaction():
                self._add(records)
        except Exception as e:
            if isinstance(e, sqlite3.OperationalError) or is_damage(e):
                raise
            if len(records) > 1:
                for record in records:
                    self.add_records([record])
                return
            self._pass_over(records[0], e)
            with self._transaction():
                self._add_positions(records)

    def _add(self, records: Sequence[Record]) -> None:
        events = [(EVENTS[r.topic], r, task_id) for r in records if r.topic in EVENTS and (task_id := self._id_of(r))]
        counted: dict[tuple[str, int], int] = {}
        tasks = self._load({task_id for _, _, task_id in events})
        for event, record, task_id in events:
            task = tasks.setdefault(task_id, TaskRow(task_id, record.partition))
            is_new, is_repeat = self._add_event(task, event, record)
            if is_new:
                key = event, record.timestamp_ms // 60_000
                counted[key] = counted.get(key, 0) + 1
            if is_repeat:
                self._db.execute(
                    "INSERT OR IGNORE INTO repeats VALUES (?, ?, ?)", (task_id, event, record.timestamp_ms)
                )
        self._db.executemany(
            "REPLACE INTO tasks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (t.row() for t in tasks.values())
        )
        for record in records:
            if record.topic == "tasks.running":
                self._add_journal_entry(record)
        self._add_counts(counted)
        self._add_positions(records)

    def _add_positions(self, records: Sequence[Record]) -> None:
        ends = {(r.topic, r.partition): r.offset + 1 for r in records}
        self._db.executemany("REPLACE INTO positions VALUES (?, ?, ?)", ((*p, n) for p, n in ends.items()))

    def forget_closed(self, now_ms: int) -> None:
        """Drops tasks that have been received and ended for WINDOW_MS, what is reported of copies, and old minutes."""
        self._db.execute(
            "DELETE FROM tasks WHERE ended < ? AND ended IS NOT NULL AND received IS NOT NULL", (now_ms - WINDOW_MS,)
        )
        self.copies.forget_closed()
        self._db.execute("DELETE FROM looked WHERE id NOT IN (SELECT id FROM tasks)")
        self._db.execute("DELETE FROM minutes WHERE minute < ?", (now_ms // 60_000 - 120,))

    def find_missing(self, before_ms: int, waiting: dict[Place, tuple[int, int]]) -> list[PartialTask]:
        """Tasks received before `before_ms`, not ended, not claimed, and whose submission does not wait in a queue.

        `waiting` gives, by partition, the committed offset and the end: submissions between the two wait.
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
        return [PartialTask(*row) for row in found]

    def find_unreceived(self, before_ms: int) -> list[PartialTask]:
        """Tasks that ended before `before_ms` and were never received."""
        found = self._db.execute(
            "SELECT id, partition, missed FROM tasks WHERE received IS NULL AND ended <= ?", (before_ms,)
        )
        return [PartialTask(*row) for row in found]

    def find_only_started(self) -> list[PartialTask]:
        """Tasks of which only starts have been read."""
        found = self._db.execute("SELECT id, partition, missed FROM tasks WHERE received IS NULL AND ended IS NULL")
        return [PartialTask(*row) for row in found]

    def count_missed(self, ids: Iterable[bytes]) -> None:
        """Counts one more audit that missed these tasks; the count of all others starts over."""
        wanted = [(i,) for i in ids]
        with self._transaction():
            self._db.execute("DELETE FROM wanted")
            self._db.executemany("INSERT OR IGNORE INTO wanted VALUES (?)", wanted)
            self._db.execute("UPDATE tasks SET missed = 0 WHERE missed > 0 AND id NOT IN (SELECT id FROM wanted)")
            self._db.execute("UPDATE tasks SET missed = missed + 1 WHERE id IN (SELECT id FROM wanted)")

    def looked(self) -> set[bytes]:
        """The tasks for which the whole log has been searched, in vain. What came later, this file has itself."""
        return {i for (i,) in self._db.execute("SELECT id FROM looked")}

    def mark_looked(self, ids: Iterable[bytes]) -> None:
        self._db.executemany("INSERT OR IGNORE INTO looked VALUES (?)", ((i,) for i in ids))

    def replace_by_repeat(self, task_id: bytes, event: str, at_ms: int, sources: Collection[str] = ()) -> None:
        """Drops a task that only exists because `event` came once more after the task was forgotten.

        Notes a repeat, or, with several `sources` of its submission, that it was submitted more than once.
        """
        if len(sources) > 1:
            self.copies.add_sources(task_id, sources, {event: True})
        else:
            self._db.execute("INSERT OR IGNORE INTO repeats VALUES (?, ?, ?)", (task_id, event, at_ms))
        self.forget(task_id, event)

    def forget(self, task_id: bytes, event: str = "") -> None:
        """Drops a task and, with `event`, takes its event of that name out of the totals."""
        self._db.execute("DELETE FROM tasks WHERE id = ?", (task_id,))
        self._db.execute("UPDATE totals SET n = n - 1 WHERE event = ?", (event,))

    def events_of(self, task_id: bytes) -> set[str]:
        """The names of the events that are known of the task."""
        row = self._load({task_id}).get(task_id)
        if row is None:
            return set()
        known = {"received": row.received_ms is not None, "started": row.starts > 0, row.ending or "": row.ending}
        return {name for name, has in known.items() if has}

    def totals(self) -> dict[str, int]:
        """Distinct events since the beginning, by name; and the present numbers of `running` and `open` tasks."""
        found = dict.fromkeys(EVENTS.values(), 0) | dict(self._db.execute("SELECT event, n FROM totals"))
        [found["open"]] = self._db.execute(
            "SELECT COUNT(*) FROM tasks WHERE ended IS NULL AND received IS NOT NULL"
        ).fetchone()
        [found["running"]] = self._db.execute(
            "SELECT COUNT(DISTINCT c.id) FROM claims c JOIN tasks t ON t.id = c.id WHERE t.ended IS NULL"
        ).fetchone()
        return found

    def counts_by_minute(self, first: int, last: int) -> dict[tuple[int, str], int]:
        """Distinct events by (minute since the epoch, event), from minute `first` on, before `last`."""
        found = self._db.execute("SELECT minute, event, n FROM minutes WHERE minute >= ? AND minute < ?", (first, last))
        return {(minute, event): n for minute, event, n in found}

    def unreported_repeats(self) -> list[tuple[bytes, str, int]]:
        """(id, event, time) of the repeats that no audit has reported yet."""
        return self._db.execute("SELECT id, event, at FROM repeats").fetchall()

    def mark_reported(self, repeats: Iterable[tuple[bytes, str, int]]) -> None:
        self._db.executemany("DELETE FROM repeats WHERE id = ? AND event = ?", ((i, e) for i, e, _ in repeats))

    def _add_event(self, task: TaskRow, event: str, record: Record) -> tuple[bool, bool]:
        """Adds the event to the task; returns whether it is the first of its kind, and whether it is a repeat.

        It is neither when it belongs to another record of the same id, or when its attempt cannot be read.
        """
        source = submission_source(event, record)
        first, had = task.source, task.has(event)
        if source is not None and not first:
            task.source_topic, task.source_partition, task.source_offset = source.topic, source.partition, source.offset
        is_new = task.add_event(event, record)
        is_repeat = not is_new and (event != "started" or attempt_of(record) > 0)
        if source is not None and first and (is_repeat or str(source) != first):
            is_repeat = self.copies.add_event(task.id, first, event, str(source), had=had)
        return is_new, is_repeat

    def _load(self, ids: set[bytes]) -> dict[bytes, TaskRow]:
        self._db.execute("DELETE FROM wanted")
        self._db.executemany("INSERT INTO wanted VALUES (?)", ((i,) for i in ids))
        return {
            row[0]: TaskRow(*row) for row in self._db.execute("SELECT t.* FROM wanted w JOIN tasks t ON t.id = w.id")
        }

    def _add_counts(self, counted: dict[tuple[str, int], int]) -> None:
        for (event, minute), n in counted.items():
            self._db.execute(
                "INSERT INTO totals VALUES (?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n", (event, n)
            )
            self._db.execute(
                "INSERT INTO minutes VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n", (minute, event, n)
            )

    def _add_journal_entry(self, record: Record) -> None:
        try:
            entry = decode_journal(record)
        except Undecodable as e:
            self._pass_over(record, e)
            return
        key = str(entry.key)
        self._db.execute("DELETE FROM claims WHERE key = ?", (key,))
        if isinstance(entry, Claim):
            rows = [(key, UUID(t.id).bytes) for t in entry.tasks]
            self._db.executemany("INSERT OR IGNORE INTO claims VALUES (?, ?)", rows)

    def _id_of(self, record: Record) -> bytes | None:
        found = id_of_key(record.key) or (id_of_key(record.value) if record.topic != "tasks.dead" else None)
        if found is None:
            self._pass_over(record, Undecodable("no task id"))
        return UUID(found).bytes if found else None

    def _pass_over(self, record: Record, why: Exception) -> None:
        self._on_passed_over(record.topic)
        log_throttled("audit record", "the audit passes over %s: %s: %s", record.source, type(why).__name__, why)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self._db.rollback()  # nothing to do where SQLite has rolled back itself, as on a full disk
            raise

    def _open(self) -> sqlite3.Connection:
        return open_or_rebuild(self._file, prepare, autocommit=True, on_rebuild=self.rebuilds.begin)
