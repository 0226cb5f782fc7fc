"""Which task ids are terminal: the storekeeper's memory, in one SQLite file with the output positions it holds.

The truth is in `lifecycle.completed` and `tasks.dead`: ids and positions change in one transaction, so a copy of any
age is made whole by reading those topics on from its positions, and a lost or broken one by reading them all.
Single-threaded use. UsageError when another process holds the file.
"""

import fcntl
import os
import sqlite3
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

from headrace.contract.records import Place
from headrace.errors import UsageError
from headrace.storage.sqlite import in_few_lengths

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
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise UsageError(
                f"{path} is in use: another storekeeper runs on it; give this one another HEADRACE_DATA"
            ) from None
        try:
            self._db = _open(path)
        except sqlite3.DatabaseError:  # broken, or of another version: it is rebuilt from the log
            for leftover in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
                leftover.unlink(missing_ok=True)
            self._db = _open(path)

    def close(self) -> None:
        self._db.close()
        os.close(self._lock)

    def adopt(self, cluster: str) -> None:
        """Says which cluster and prefix this is of; it is emptied when it was of another one.

        The same ids come again there: a keyless record's is made of its place, another's of its Idempotency-Key.
        """
        with self._db:
            if self._db.execute("SELECT name FROM cluster").fetchall() != [(cluster,)]:
                for table in ("terminal", "position", "cluster"):
                    self._db.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names
                self._db.execute("INSERT INTO cluster VALUES (?)", (cluster,))

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


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        # A power cut may lose the last transactions, whole: positions and ids stay in step, and the log has the rest.
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA cache_size = -8000")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;")
        elif version != _SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"schema version {version}")
    except BaseException:
        db.close()
        raise
    return db
