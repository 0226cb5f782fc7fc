"""The cancelled tasks as this node knows them, from the control log `tasks.control`.

Their ids are in a SQLite file beside the node's lock, written in one transaction with the positions up to which the log
has been read. So a restart reads only the tail, and memory does not grow with the cancels. A task starts only after the
log has been read to where it ended at the pull (step 2 of the protocol, docs/protocol.md).
"""

import sqlite3
import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from headrace.contract.cluster import Cancel
from headrace.contract.records import Place, Record
from headrace.kafka.client import Kafka
from headrace.kafka.follower import Follower
from headrace.kafka.metadata import installation_name
from headrace.storage.sqlite import adopt, open_or_rebuild

_TABLES = """
CREATE TABLE IF NOT EXISTS cancelled (id BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS position (partition INTEGER PRIMARY KEY, next INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS cluster (name TEXT PRIMARY KEY) WITHOUT ROWID;
"""


_ANSWER_S = 10.0  # then the end of the log is asked for again


class Cancellations(Follower):
    """`on_cancel` is called with a task id for each cancel read after `start`, in this follower's thread."""

    def __init__(self, kafka: Kafka, file: Path, on_cancel: Callable[[str], None] = lambda _: None) -> None:
        super().__init__(kafka, "control", ["tasks.control"])
        self._lock = threading.Lock()
        self._db = open_or_rebuild(file, _make_tables)
        self._unflushed: list[str] = []
        self.on_cancel = on_cancel

    def is_cancelled(self, task_id: str) -> bool:
        with self._lock:
            found = self._db.execute("SELECT 1 FROM cancelled WHERE id = ?", (uuid.UUID(task_id).bytes,))
            return found.fetchone() is not None

    def wait_until_read(self, ends: "Mapping[Place, Future[Any]]", is_stopping: Callable[[], bool]) -> bool:
        """Returns True when the log has been read to `ends`, which `request_ends` gave.

        Asks again when Kafka does not answer within `_ANSWER_S`; returns False when `is_stopping` says so then.
        """
        while not self.wait_read(ends, _ANSWER_S):
            if is_stopping():
                return False
            ends = self.request_ends()
        return True

    def close(self) -> None:
        super().close()
        self._db.close()

    def start_positions(self, ends: Mapping[Place, int]) -> Mapping[Place, int]:
        cluster = installation_name(self._admin, self._kafka, "tasks.control", 10)
        with self._lock:
            adopt(self._db, cluster, ("cancelled", "position", "cluster"))
            return {("tasks.control", p): at for p, at in self._db.execute("SELECT partition, next FROM position")}

    def apply_record(self, record: Record) -> None:
        cancel = Cancel.decode(record)
        if cancel is not None:
            self._unflushed.append(cancel.id)

    def save_positions(self, positions: Mapping[Place, int]) -> None:
        with self._lock, self._db:
            self._db.executemany(
                "INSERT OR IGNORE INTO cancelled VALUES (?)", [(uuid.UUID(i).bytes,) for i in self._unflushed]
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO position VALUES (?, ?)", [(p, at) for (_, p), at in positions.items()]
            )
        flushed, self._unflushed = self._unflushed, []
        for task_id in flushed:
            self.on_cancel(task_id)

    def notes(self) -> list[str]:
        """A sentence for each partition of which cancels were lost."""
        return [
            f"{self._kafka.topic(t)}, partition {p}: {why}; cancels there are lost" for (t, p), why in self.gaps.items()
        ]

    def position_lost(self, place: Place) -> None:
        with self._lock, self._db:
            self._db.execute("DELETE FROM position WHERE partition = ?", (place[1],))


def _make_tables(db: sqlite3.Connection) -> None:
    db.executescript(_TABLES)
