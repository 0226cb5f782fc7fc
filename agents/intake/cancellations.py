"""The cancelled tasks as this node knows them, from the control log `tasks.control`.

Their ids are in a SQLite file beside the node's lock, written in one transaction with the positions up to which the log
has been read. So a restart reads only the tail, and memory does not grow with the cancels. What has been trimmed from
the log is settled (docs/design/0024): it leaves the file too, within an hour, and need not have been read. A task
starts only after the log has been read to where it ended at the pull (step 2 of the protocol, docs/protocol.md).

A damaged file is made anew and filled from the log. Until then nobody knows what was cancelled: `is_cancelled` says
False, `wait_until_read` waits, so no claimed task starts, and `on_cancel` is called again for each cancel, so that what
had begun before is killed. A file that cannot be used now (a full disk, a lock) holds up tasks in the same way.
"""

import logging
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException

from headrace.contract.cluster import Cancel
from headrace.contract.records import Place, Record
from headrace.errors import Retryable
from headrace.kafka.client import Kafka
from headrace.kafka.follower import Follower
from headrace.kafka.metadata import installation_name
from headrace.kafka.reading import first_offsets
from headrace.process.throttled_log import log_throttled
from headrace.storage.rebuilds import Rebuilds
from headrace.storage.sqlite import adopt, connect, is_damage, make_tables, open_or_rebuild, remove, trouble

log = logging.getLogger(__name__)

_TABLES = """
CREATE TABLE cancelled (id BLOB PRIMARY KEY, partition INTEGER NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX cancelled_by_place ON cancelled (partition, at);
CREATE TABLE position (partition INTEGER PRIMARY KEY, next INTEGER NOT NULL);
CREATE TABLE cluster (name TEXT PRIMARY KEY) WITHOUT ROWID;
"""

_FORGET_EVERY_S = 3600.0
_HEAL_S = 0.1  # between looks whether the file can be asked again
_ANSWER_S = 10.0  # then the end of the log is asked for again


class Cancellations(Follower):
    """`on_cancel` is called with a task id for each cancel read after `start`, in this follower's thread."""

    retried_errors = (KafkaException, Retryable, sqlite3.Error)

    def __init__(self, kafka: Kafka, file: Path, on_cancel: Callable[[str], None] = lambda _: None) -> None:
        super().__init__(kafka, "control", ["tasks.control"])
        self._file, self.rebuilds = file, Rebuilds("cancellations")
        self._reading = threading.Lock()  # readers' connection: they never wait for the disk behind a writer
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._trouble: sqlite3.Error | None = None  # why the file cannot be asked; the follower's thread heals it
        self._unflushed: list[tuple[str, int, int]] = []  # id, partition, offset
        self._forgot_at = 0.0
        self.on_cancel = on_cancel

    def is_cancelled(self, task_id: str) -> bool:
        """Whether the task was cancelled; False while the file cannot be asked. Never raises, and waits for nothing."""
        with self._reading:
            if self._reader is None or self._trouble is not None:
                return False
            try:
                found = self._reader.execute("SELECT 1 FROM cancelled WHERE id = ?", (uuid.UUID(task_id).bytes,))
                return found.fetchone() is not None
            except sqlite3.Error as e:
                self._trouble = e
                log_throttled(f"{self._file} unreadable", "%s cannot be read: %s", self._file, trouble(e))
                return False

    def wait_until_read(self, ends: "Mapping[Place, Future[Any]]", is_stopping: Callable[[], bool]) -> bool:
        """Returns True when the log has been read to `ends`, which `request_ends` gave.

        Asks again when Kafka does not answer within `_ANSWER_S`; returns False when `is_stopping` says so then.
        """
        while self._trouble is not None or not self.wait_read(ends, _ANSWER_S) or self._trouble is not None:
            if is_stopping():
                return False
            if self._trouble is not None:
                time.sleep(_HEAL_S)
            ends = self.request_ends()
        return True

    def check(self) -> str | None:
        """For health: None, or why it is not known which tasks are cancelled."""
        error = self._trouble
        words = None if error is None or is_damage(error) else f"{self._file}: {trouble(error)}"
        return self.rebuilds.check() or words or super().check()

    def failure_words(self, error: Exception) -> str:
        return trouble(error) if isinstance(error, sqlite3.Error) else super().failure_words(error)

    def close(self) -> None:
        super().close()
        with self._reading:
            self._close_file()

    def on_turn(self) -> None:
        if self._trouble is not None:
            raise self._trouble  # a reader has met it: from `start_positions` on, again
        if self.rebuilds.why is not None and self.catching_up.whole():
            self.rebuilds.end()
        if time.monotonic() - self._forgot_at > _FORGET_EVERY_S:
            self._forget(first_offsets(self._kafka, self._kafka.admin(), self.places))

    def start_positions(self, ends: Mapping[Place, int]) -> Mapping[Place, int]:
        cluster = installation_name(self._kafka.admin(), self._kafka, "tasks.control", 10)
        self._unflushed.clear()
        with self._noting_trouble():
            writer = self._open_file()
            adopt(writer, cluster, ("cancelled", "position", "cluster"))
            found = {("tasks.control", p): at for p, at in writer.execute("SELECT partition, next FROM position")}
        first = first_offsets(self._kafka, self._kafka.admin(), ends)
        self._forget(first)
        self._trouble = None
        return {place: max(at, first.get(place, at)) for place, at in found.items()}

    def apply_record(self, record: Record) -> None:
        cancel = Cancel.decode(record)
        if cancel is not None:
            self._unflushed.append((cancel.id, record.partition, record.offset))

    def save_positions(self, positions: Mapping[Place, int]) -> None:
        with self._noting_trouble(), self._opened() as db:
            db.executemany(
                "INSERT OR REPLACE INTO cancelled VALUES (?, ?, ?)",
                [(uuid.UUID(i).bytes, partition, at) for i, partition, at in self._unflushed],
            )
            db.executemany(
                "INSERT OR REPLACE INTO position VALUES (?, ?)", [(p, at) for (_, p), at in positions.items()]
            )
        flushed, self._unflushed = self._unflushed, []
        for task_id, _, _ in flushed:
            self.on_cancel(task_id)

    def notes(self) -> list[str]:
        """A sentence for each partition of which cancels were lost."""
        return [
            f"{self._kafka.topic(t)}, partition {p}: {why}; cancels there are lost" for (t, p), why in self.gaps.items()
        ]

    def position_lost(self, place: Place) -> None:
        with self._noting_trouble(), self._opened() as db:
            db.execute("DELETE FROM position WHERE partition = ?", (place[1],))

    def _forget(self, first: Mapping[Place, int]) -> None:
        """Removes the cancels before these offsets, where the log begins now."""
        self._forgot_at = time.monotonic()
        with self._noting_trouble(), self._opened() as db:
            db.executemany(
                "DELETE FROM cancelled WHERE partition = ? AND at < ?", [(p, at) for (_, p), at in first.items()]
            )

    def _opened(self) -> sqlite3.Connection:
        assert self._writer is not None, "`start_positions` opens it"
        return self._writer

    @contextmanager
    def _noting_trouble(self) -> Iterator[None]:
        """In the follower's thread: readers are told, and the error makes it begin again at `start_positions`."""
        try:
            yield
        except sqlite3.Error as e:
            self._trouble = e
            raise

    def _open_file(self) -> sqlite3.Connection:
        """The writer's connection, to a new file when the one before is damaged; readers get theirs."""
        error = self._trouble
        with self._reading:
            if error is not None:
                self._close_file()
            if error is not None and is_damage(error):
                log.warning("%s is damaged (%s): it is made anew from Kafka's log", self._file, error)
                remove(self._file)
                self._begin_anew(str(error))
            if self._writer is None:
                self._writer = open_or_rebuild(self._file, _make_tables, on_rebuild=self._begin_anew)
                self._reader = connect(self._file, timeout_s=0)
            return self._writer

    def _begin_anew(self, why: str) -> None:
        """Nothing counts as read any more, so `wait_until_read` waits."""
        self.rebuilds.begin(why)
        self.catching_up.begin_again()
        with self._read:
            self._positions = {}

    def _close_file(self) -> None:
        for connection in (self._writer, self._reader):
            if connection is not None:
                connection.close()
        self._writer = self._reader = None


def _make_tables(db: sqlite3.Connection) -> None:
    make_tables(db, _TABLES)
