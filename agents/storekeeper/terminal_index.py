"""Which task ids are terminal: the storekeeper's index of its own outputs.

The truth is in `lifecycle.completed` and `tasks.dead`. The newest events are in a SQLite file, ids and the positions up
to which the topics have been read in one transaction; older ones are in a base file for each partition, which never
changes (docs/design/0034-takeovers.md). So a copy of any age is completed by reading on from its
positions, and a lost or broken one by reading the topics from their beginning. Single-threaded use, but for what
`IndexUpkeep` calls. UsageError when another process holds the file.
"""

import logging
import os
import sqlite3
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from headrace.contract.records import Place
from headrace.errors import HeadraceError
from headrace.storage.rebuilds import Rebuilds
from headrace.storage.sqlite import (
    Damaged,
    adopt,
    in_few_lengths,
    is_damage,
    lock,
    make_tables,
    open_or_rebuild,
    remove,
)

from .base_file import BaseFile
from .index_bases import IndexBases, base_is_missing, recorded_bases

log = logging.getLogger(__name__)

OUTPUTS = ("lifecycle.completed", "tasks.dead")
_SCHEMA_VERSION = 3
_SCHEMA = """
CREATE TABLE terminal (id BLOB PRIMARY KEY, output INTEGER, partition INTEGER, offset INTEGER) WITHOUT ROWID;
CREATE TABLE position (output INTEGER, partition INTEGER, next INTEGER, PRIMARY KEY (output, partition)) WITHOUT ROWID;
CREATE TABLE base (partition INTEGER PRIMARY KEY, completed INTEGER, dead INTEGER) WITHOUT ROWID;
CREATE TABLE cluster (name TEXT PRIMARY KEY) WITHOUT ROWID;
"""

IndexEntry = tuple[str, str, int, int]  # of a terminal event: task id, output topic, partition, offset
Row = tuple[bytes, int, int, int]  # the same with the id's 16 bytes and the output's number


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
            self.bases = IndexBases(path.with_suffix("") / "index", path, self._rebuilds.begin)
        except BaseException:
            os.close(self._lock)
            raise
        self.installation = ""  # until `adopt`
        self.unmerged: Counter[int] = Counter()  # events of each partition that are not in its base file
        with self._removing_damaged():
            self._start_over_without_base()
            self.unmerged.update(dict(self._db.execute("SELECT partition, count(*) FROM terminal GROUP BY partition")))

    def close(self) -> None:
        self.bases.close()
        self._db.close()
        os.close(self._lock)

    def adopt(self, cluster: str) -> None:
        """Empties the index if it belongs to another cluster or prefix than `cluster`.

        The same ids occur in both: an id may be derived from a record's topic, partition and offset, or from an
        Idempotency-Key.
        """
        self.bases.keep_only(cluster)
        with self._removing_damaged():
            adopt(self._db, cluster, ("terminal", "position", "base", "cluster"))
        self.installation = cluster

    def find_terminal(self, ids: Mapping[str, int]) -> set[str]:
        """Those of the ids that are terminal; `ids`: task id -> its partition."""
        found: set[str] = set()
        with self._removing_damaged():
            wanted = []
            for task_id, partition in ids.items():
                raw = uuid.UUID(task_id).bytes
                if self.bases.holds(raw, partition):
                    found.add(task_id)
                else:
                    wanted.append(raw)
            for some in in_few_lengths(wanted):
                marks = ",".join("?" * len(some))
                rows = self._db.execute(f"SELECT id FROM terminal WHERE id IN ({marks})", some)  # noqa: S608 - marks
                found.update(str(uuid.UUID(bytes=row[0])) for row in rows)
        return found

    def positions(self) -> dict[Place, int]:
        """The next offset that is not indexed yet, for each output partition."""
        with self._removing_damaged():
            rows = self._db.execute("SELECT output, partition, next FROM position")
            found = {(OUTPUTS[output], partition): following for output, partition, following in rows}
        for partition, ends in self.bases.positions().items():
            for output, end in zip(OUTPUTS, ends, strict=True):
                found[output, partition] = max(end, found.get((output, partition), 0))
        return found

    def add_entries(self, entries: Iterable[IndexEntry], positions: Mapping[Place, int] | None = None) -> None:
        """Adds terminal events and, in the same transaction, the `positions` up to which the outputs have been read.

        Without `positions`, which is for events that were just sent, a position advances only over events that follow
        it directly: a gap may hold another storekeeper's events, and only reading finds those.
        """
        rows = [(bytes.fromhex(i.replace("-", "")), OUTPUTS.index(topic), p, at) for i, topic, p, at in entries]
        self.add_rows(rows, positions)

    def add_rows(self, rows: Iterable[Row], positions: Mapping[Place, int] | None) -> None:
        """`add_entries` for events as the file holds them."""
        self.use_merged()
        rows = sorted(rows)  # by id: they fill the file's pages one after another
        with self._removing_damaged(), self._db:
            self._db.executemany("INSERT OR IGNORE INTO terminal VALUES (?, ?, ?, ?)", rows)
            if positions is not None:
                moved = [(OUTPUTS.index(topic), p, following) for (topic, p), following in positions.items()]
                self._db.executemany("INSERT OR REPLACE INTO position VALUES (?, ?, ?)", moved)
            else:
                self._db.executemany(
                    "UPDATE position SET next = next + 1 WHERE output = ? AND partition = ? AND next = ?",
                    sorted(row[1:] for row in rows),
                )
        self.unmerged.update(row[2] for row in rows)

    def use_merged(self) -> None:
        """Takes the base files into use that `IndexUpkeep` has merged."""
        for base in self.bases.take_merged():
            self.use_base(base)

    def use_base(self, base: BaseFile) -> bool:
        """Takes a file of older events into use: merged from ours, or the snapshot of another storekeeper.

        False when it is of another installation, or older than the present one.
        """
        partition, positions = base.head.partition, base.head.positions
        if base.head.installation != self.installation or not self.bases.use(base):
            return False
        with self._removing_damaged(), self._db:
            for output, end in enumerate(positions):
                asked = "DELETE FROM terminal WHERE partition = ? AND output = ? AND offset < ?"
                self._db.execute(asked, (partition, output, end))
            self._db.execute("INSERT OR REPLACE INTO base VALUES (?, ?, ?)", (partition, *positions))
            asked = "SELECT count(*) FROM terminal WHERE partition = ?"
            self.unmerged[partition] = self._db.execute(asked, (partition,)).fetchone()[0]
        return True

    def give_up(self, partition: int, error: sqlite3.DatabaseError) -> None:
        """Raises the error of a merge of the partition: IndexDamaged, and the file is gone, when one is damaged."""
        with self._removing_damaged():
            if isinstance(error, Damaged):
                self.bases.remove(partition)
            raise error

    def forget_before(self, place: Place, offset: int) -> None:
        """Drops ids whose events in that output partition are before `offset`: of a base file at its next merge."""
        self.bases.forget_before(place[1], OUTPUTS.index(place[0]), offset)
        with self._removing_damaged(), self._db:
            self._db.execute(
                "DELETE FROM terminal WHERE output = ? AND partition = ? AND offset < ?",
                (OUTPUTS.index(place[0]), place[1], offset),
            )

    def __len__(self) -> int:
        count: int = self._db.execute("SELECT count(*) FROM terminal").fetchone()[0]
        return count + len(self.bases)

    def filled(self) -> None:
        """Says that the outputs have been read into it: a file that was made anew is complete."""
        self._rebuilds.end()

    def _start_over_without_base(self) -> None:
        """A partition whose base file is not there has lost events: it is read from the beginning."""
        found = self.bases.positions()
        for partition, recorded in recorded_bases(self._db).items():
            if base_is_missing(recorded, found.get(partition)):
                self.bases.remove(partition)
                with self._db:
                    for table in ("terminal", "position", "base"):
                        self._db.execute(f"DELETE FROM {table} WHERE partition = ?", (partition,))  # noqa: S608

    @contextmanager
    def _removing_damaged(self) -> Iterator[None]:
        """Removes a damaged file, so that even a process that is killed now does not find it again; IndexDamaged."""
        try:
            yield
        except sqlite3.DatabaseError as e:
            if not is_damage(e):
                raise
            self._db.close()
            if not isinstance(e, Damaged):  # else it is a base file, and it is gone
                remove(self._path)
            self._rebuilds.begin(str(e))
            log.warning("%s is damaged (%s): it is made anew from Kafka's log", self._path, e)
            raise IndexDamaged(f"{self._path} is damaged: {e}") from None


def _prepare(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA cache_size = -8000")  # kB
    make_tables(db, _SCHEMA, _SCHEMA_VERSION)
