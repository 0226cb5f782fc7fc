"""Which task ids are terminal: the storekeeper's index of its own outputs, in one SQLite file.

The truth is in `lifecycle.completed` and `tasks.dead`. Ids and the positions up to which those topics have been read
change in one transaction. So a copy of any age is completed by reading on from its positions, and a lost or broken one
by reading the topics from their beginning. Single-threaded use. UsageError when another process holds the file.
"""

import os
import sqlite3
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

from headrace.contract.records import Place
from headrace.storage.sqlite import Damaged, adopt, in_few_lengths, lock, open_or_rebuild

OUTPUTS = ("lifecycle.completed", "tasks.dead")
_SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE terminal (id BLOB PRIMARY KEY, output INTEGER, partition INTEGER, offset INTEGER) WITHOUT ROWID;
CREATE TABLE position (output INTEGER, partition INTEGER, next INTEGER, PRIMARY KEY (output, partition)) WITHOUT ROWID;
CREATE TABLE cluster (name TEXT PRIMARY KEY) WITHOUT ROWID;
"""

IndexEntry = tuple[str, str, int, int]  # of a terminal event: task id, output topic, partition, offset


class TerminalIndex:
    """Ids that have a terminal event, and up to where each output partition is indexed."""

    def __init__(self, path: Path) -> None:
        self._lock = lock(
            path, f"{path} is in use: another storekeeper runs on it; give this one another HEADRACE_DATA"
        )
        self._db = open_or_rebuild(path, _prepare)

    def close(self) -> None:
        self._db.close()
        os.close(self._lock)

    def adopt(self, cluster: str) -> None:
        """Empties the index if it belongs to another cluster or prefix than `cluster`.

        The same ids occur in both: an id may be derived from a record's topic, partition and offset, or from an
        Idempotency-Key.
        """
        adopt(self._db, cluster, ("terminal", "position", "cluster"))

    def find_terminal(self, ids: Iterable[str]) -> set[str]:
        """Those of the ids that are terminal."""
        wanted = [uuid.UUID(i).bytes for i in ids]
        found: set[str] = set()
        for some in in_few_lengths(wanted):
            marks = ",".join("?" * len(some))
            rows = self._db.execute(f"SELECT id FROM terminal WHERE id IN ({marks})", some)  # noqa: S608 - question marks
            found.update(str(uuid.UUID(bytes=row[0])) for row in rows)
        return found

    def positions(self) -> dict[Place, int]:
        """The next offset that is not indexed yet, for each output partition."""
        rows = self._db.execute("SELECT output, partition, next FROM position")
        return {(OUTPUTS[output], partition): following for output, partition, following in rows}

    def add_entries(self, entries: Iterable[IndexEntry], positions: Mapping[Place, int] | None = None) -> None:
        """Adds terminal events and, in the same transaction, the `positions` up to which the outputs have been read.

        Without `positions`, which is for events that were just sent, a position advances only over events that follow
        it directly: a gap may hold another storekeeper's events, and only reading finds those.
        """
        rows = sorted(
            (OUTPUTS.index(topic), partition, offset, uuid.UUID(i).bytes) for i, topic, partition, offset in entries
        )
        with self._db:
            self._db.executemany(
                "INSERT OR IGNORE INTO terminal VALUES (?, ?, ?, ?)",
                ((i, topic, partition, offset) for topic, partition, offset, i in rows),
            )
            if positions is not None:
                moved = [
                    (OUTPUTS.index(topic), partition, following) for (topic, partition), following in positions.items()
                ]
                self._db.executemany("INSERT OR REPLACE INTO position VALUES (?, ?, ?)", moved)
            else:
                self._db.executemany(
                    "UPDATE position SET next = next + 1 WHERE output = ? AND partition = ? AND next = ?",
                    (row[:3] for row in rows),
                )

    def forget_before(self, place: Place, offset: int) -> None:
        """Drops ids whose events in that output partition are before `offset`, where the log begins now."""
        with self._db:
            self._db.execute(
                "DELETE FROM terminal WHERE output = ? AND partition = ? AND offset < ?",
                (OUTPUTS.index(place[0]), place[1], offset),
            )

    def __len__(self) -> int:
        count: int = self._db.execute("SELECT count(*) FROM terminal").fetchone()[0]
        return count


def _prepare(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA cache_size = -8000")  # kB
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;")
    elif version != _SCHEMA_VERSION:
        raise Damaged(f"schema version {version}")
