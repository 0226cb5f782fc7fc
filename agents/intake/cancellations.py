"""The control log on this node: which tasks have been cancelled.

Follows `tasks.control` from the start. The ids lie in a SQLite file beside the node's lock, with the positions that
they were read to in the same transaction: a restart reads the tail only, and memory does not grow with the cancels.
Nothing may start before `caught_up` has said that all was read that was there at `ends` (PROTOCOL, step 2).
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
from headrace.kafka.metadata import installation
from headrace.storage.sqlite import adopt, open_or_rebuild

_TABLES = """
CREATE TABLE IF NOT EXISTS cancelled (id BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS position (partition INTEGER PRIMARY KEY, next INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS cluster (name TEXT PRIMARY KEY) WITHOUT ROWID;
"""


class Cancellations(Follower):
    """`on_cancel(id)` is called, from its own thread, for each cancel read after `start`; the node kills that task."""

    def __init__(self, kafka: Kafka, file: Path, on_cancel: Callable[[str], None] = lambda _: None) -> None:
        super().__init__(kafka, "control", ["tasks.control"])
        self._lock = threading.Lock()
        self._db = open_or_rebuild(file, _make_tables)
        self._new: list[str] = []
        self.on_cancel = on_cancel

    def is_cancelled(self, task_id: str) -> bool:
        with self._lock:
            found = self._db.execute("SELECT 1 FROM cancelled WHERE id = ?", (uuid.UUID(task_id).bytes,))
            return found.fetchone() is not None

    def ends(self) -> "dict[Place, Future[Any]]":
        """Asks for the end of the log, now; answered while the claim is on its way."""
        return self.ask_ends()

    def caught_up(self, ends: "Mapping[Place, Future[Any]]", timeout_s: float = 10.0) -> bool:
        return self.wait_read(ends, timeout_s)

    def close(self) -> None:
        super().close()
        self._db.close()

    def begin(self) -> Mapping[Place, int]:
        cluster = installation(self._admin, self._kafka, "tasks.control", 10)
        with self._lock:
            adopt(self._db, cluster, ("cancelled", "position", "cluster"))
            return {("tasks.control", p): at for p, at in self._db.execute("SELECT partition, next FROM position")}

    def handle(self, record: Record) -> None:
        command = Cancel.decode(record)
        if command is not None:
            self._new.append(command.id)

    def flush(self, positions: Mapping[Place, int]) -> None:
        with self._lock, self._db:
            self._db.executemany(
                "INSERT OR IGNORE INTO cancelled VALUES (?)", [(uuid.UUID(i).bytes,) for i in self._new]
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO position VALUES (?, ?)", [(p, at) for (_, p), at in positions.items()]
            )
        new, self._new = self._new, []
        for task_id in new:
            self.on_cancel(task_id)

    def restarted(self, place: Place) -> None:
        with self._lock, self._db:
            self._db.execute("DELETE FROM position WHERE partition = ?", (place[1],))


def _make_tables(db: sqlite3.Connection) -> None:
    db.executescript(_TABLES)
