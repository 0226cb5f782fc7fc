"""Which task ids are terminal: the storekeeper's memory, in one SQLite file with the output positions it holds.

The truth is in `lifecycle.completed` and `tasks.dead`: ids and positions change in one transaction, so a copy of any
age is made whole by reading those topics on from its positions, and a lost or broken one by reading them all.
Single-threaded use. UsageError when another process holds the file.
"""

import os
import sqlite3
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

from headrace.contract.records import Place
from headrace.storage.sqlite import adopt, in_few_lengths, lock, open_or_rebuild

OUTPUTS = ("lifecycle.completed", "tasks.dead")
_SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE terminal (id BLOB PRIMARY KEY, output INTEGER, partition INTEGER, offset INTEGER) WITHOUT ROWID;
CREATE TABLE position (output INTEGER, partition INTEGER, next INTEGER, PRIMARY KEY (output, partition)) WITHOUT ROWID;
CREATE TABLE cluster (name TEXT PRIMARY KEY) WITHOUT ROWID;
"""

Written = tuple[str, str, int, int]  # task id, output topic, partition, offset


class TerminalIndex:
    """Ids that have their terminal event, and up to where each output partition has been read into here."""

    def __init__(self, path: Path) -> None:
        self._lock = lock(
            path, f"{path} is in use: another storekeeper runs on it; give this one another HEADRACE_DATA"
        )
        self._db = open_or_rebuild(path, _prepare)

    def close(self) -> None:
        self._db.close()
        os.close(self._lock)

    def adopt(self, cluster: str) -> None:
        """Says which cluster and prefix this is of; it is emptied when it was of another one.

        The same ids come again there: a keyless record's is made of its place, another's of its Idempotency-Key.
        """
        adopt(self._db, cluster, ("terminal", "position", "cluster"))

    def known(self, ids: Iterable[str]) -> set[str]:
        """Which of the ids are terminal."""
        wanted = [uuid.UUID(i).bytes for i in ids]
        found: set[str] = set()
        for some in in_few_lengths(wanted):
            marks = ",".join("?" * len(some))
            rows = self._db.execute(f"SELECT id FROM terminal WHERE id IN ({marks})", some)  # noqa: S608 - question marks
            found.update(str(uuid.UUID(bytes=row[0])) for row in rows)
        return found

    def positions(self) -> dict[Place, int]:
        """Per output partition the next offset that has not been read into here."""
        rows = self._db.execute("SELECT output, partition, next FROM position")
        return {(OUTPUTS[output], partition): following for output, partition, following in rows}

    def add(self, written: Iterable[Written], positions: Mapping[Place, int] | None = None) -> None:
        """Takes in terminal events, with where reading stands, in one transaction.

        Without `positions` (events just sent, not read) a position moves on over events that follow it directly: in
        between there may be another storekeeper's, which only reading brings in.
        """
        rows = sorted(
            (OUTPUTS.index(topic), partition, offset, uuid.UUID(i).bytes) for i, topic, partition, offset in written
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
        """Drops ids whose events the log itself no longer holds."""
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
        raise sqlite3.DatabaseError(f"schema version {version}")
