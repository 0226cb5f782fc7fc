"""Which task ids are terminal: the storekeeper's index of its own outputs, in one SQLite file.

The truth is in `lifecycle.completed` and `tasks.dead`. Ids and the positions up to which those topics have been read
change in one transaction. So a copy of any age is completed by reading on from its positions, and a lost or broken one
by reading the topics from their beginning. Single-threaded use. UsageError when another process holds the file.
"""

import logging
import os
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from headrace.contract.records import Place
from headrace.errors import HeadraceError
from headrace.storage.rebuilds import Rebuilds
from headrace.storage.sqlite import adopt, in_few_lengths, is_damage, lock, make_tables, open_or_rebuild, remove

log = logging.getLogger(__name__)

OUTPUTS = ("lifecycle.completed", "tasks.dead")
_SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE terminal (id BLOB PRIMARY KEY, output INTEGER, partition INTEGER, offset INTEGER) WITHOUT ROWID;
CREATE TABLE position (output INTEGER, partition INTEGER, next INTEGER, PRIMARY KEY (output, partition)) WITHOUT ROWID;
CREATE TABLE cluster (name TEXT PRIMARY KEY) WITHOUT ROWID;
"""

IndexEntry = tuple[str, str, int, int]  # of a terminal event: task id, output topic, partition, offset


class IndexDamaged(HeadraceError):
    """The index's file was damaged and is gone. A new one is filled from the outputs, before anything is judged."""


class TerminalIndex:
    """Ids that have a terminal event, and up to where each output partition is indexed."""

    def __init__(self, path: Path, rebuilds: Rebuilds | None = None) -> None:
        """`rebuilds` counts how often the file was found unusable. sqlite3.OperationalError while it cannot be used."""
        self._path, self._rebuilds = path, rebuilds or Rebuilds("terminal index")
        self._lock = lock(
            path, f"{path} is in use: another storekeeper runs on it; give this one another HEADRACE_DATA"
        )
        try:
            self._db = open_or_rebuild(path, _prepare, on_rebuild=self._rebuilds.begin)
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        self._db.close()
        os.close(self._lock)

    def adopt(self, cluster: str) -> None:
        """Empties the index if it belongs to another cluster or prefix than `cluster`.

        The same ids occur in both: an id may be derived from a record's topic, partition and offset, or from an
        Idempotency-Key.
        """
        with self._removing_damaged():
            adopt(self._db, cluster, ("terminal", "position", "cluster"))

    def find_terminal(self, ids: Iterable[str]) -> set[str]:
        """Those of the ids that are terminal."""
        wanted = [uuid.UUID(i).bytes for i in ids]
        found: set[str] = set()
        with self._removing_damaged():
            for some in in_few_lengths(wanted):
                marks = ",".join("?" * len(some))
                rows = self._db.execute(f"SELECT id FROM terminal WHERE id IN ({marks})", some)  # noqa: S608 - marks
                found.update(str(uuid.UUID(bytes=row[0])) for row in rows)
        return found

    def positions(self) -> dict[Place, int]:
        """The next offset that is not indexed yet, for each output partition."""
        with self._removing_damaged():
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
        with self._removing_damaged(), self._db:
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
        with self._removing_damaged(), self._db:
            self._db.execute(
                "DELETE FROM terminal WHERE output = ? AND partition = ? AND offset < ?",
                (OUTPUTS.index(place[0]), place[1], offset),
            )

    def __len__(self) -> int:
        count: int = self._db.execute("SELECT count(*) FROM terminal").fetchone()[0]
        return count

    def filled(self) -> None:
        """Says that the outputs have been read into it: a file that was made anew is complete."""
        self._rebuilds.end()

    @contextmanager
    def _removing_damaged(self) -> Iterator[None]:
        """Removes a damaged file, so that even a process that is killed now does not find it again; IndexDamaged."""
        try:
            yield
        except sqlite3.DatabaseError as e:
            if not is_damage(e):
                raise
            self._db.close()
            remove(self._path)
            self._rebuilds.begin(str(e))
            log.warning("%s is damaged (%s): it is made anew from Kafka's log", self._path, e)
            raise IndexDamaged(f"{self._path} is damaged: {e}") from None


def _prepare(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA cache_size = -8000")  # kB
    make_tables(db, _SCHEMA, _SCHEMA_VERSION)
