"""The base files of the terminal index, one a partition, and what has been merged but not taken into use yet.

The index's one thread looks ids up and takes merged files into use. Other threads (`IndexUpkeep`, `Takeovers`) make
them, one at a time: they read the index's SQLite file with a connection of their own. OSError and sqlite3.Error while
the disk cannot be used.
"""

import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from headrace.storage.sqlite import Damaged, connect

from .base_file import BaseFile, Entry, write_base

log = logging.getLogger(__name__)

Positions = tuple[int, int]  # next offset of lifecycle.completed and of tasks.dead


class IndexBases:
    """Of one index. `merge` and `put_merged` are for any thread, everything else belongs to the index's."""

    def __init__(self, folder: Path, index: Path, on_damage: Callable[[str], None]) -> None:
        """`index`: the SQLite file. `on_damage` is called with the reason when a file is damaged and was removed."""
        self._folder, self._index, self._on_damage = folder, index, on_damage
        self._bases: dict[int, BaseFile] = {}
        self._merged: queue.SimpleQueue[BaseFile] = queue.SimpleQueue()
        self._first_kept: dict[int, dict[int, int]] = {}
        self._merges = 0
        self._merging = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.suffix == ".base" and (base := self._opened(path)) is not None:
                self._bases[base.head.partition] = base
            elif path.suffix != ".base":
                path.unlink(missing_ok=True)  # left half-made by a process that was killed

    def close(self) -> None:
        for base in [*self._bases.values(), *self.take_merged()]:
            base.close()
        self._bases.clear()

    def holds(self, task_id: bytes, partition: int) -> bool:
        """Whether the partition's file has the task. Damaged: the file is removed, and the partition starts over."""
        base = self._bases.get(partition)
        try:
            return base is not None and task_id in base
        except Damaged:
            self.remove(partition)
            raise

    def positions(self) -> dict[int, Positions]:
        """Up to where each partition's file holds the outputs."""
        return {p: base.head.positions for p, base in self._bases.items()}

    def __len__(self) -> int:
        return sum(base.head.entries for base in self._bases.values())

    def remove(self, partition: int) -> None:
        if (base := self._bases.pop(partition, None)) is not None:
            base.close()
        self.path(partition).unlink(missing_ok=True)

    def keep_only(self, installation: str) -> None:
        """Removes the files of every other installation."""
        for partition, base in list(self._bases.items()):
            if base.head.installation != installation:
                self.remove(partition)

    def forget_before(self, partition: int, output: int, offset: int) -> None:
        """The next merge leaves out the events of that output that are before `offset`."""
        self._first_kept.setdefault(partition, {})[output] = offset

    def put_merged(self, base: BaseFile) -> None:
        """From any thread: the index shall use that file from now on."""
        self._merged.put(base)

    def take_merged(self) -> list[BaseFile]:
        """The files to be taken into use, from the oldest on."""
        found = []
        while not self._merged.empty():
            found.append(self._merged.get())
        return found

    def use(self, base: BaseFile) -> bool:
        """Replaces the partition's file; False, and the new one is gone, when the present one is as new."""
        partition = base.head.partition
        present = self._bases.get(partition)
        if present is not None and (
            present.head.installation != base.head.installation
            or sum(present.head.positions) > sum(base.head.positions)
        ):
            base.close()
            base.path.unlink(missing_ok=True)
            return False
        base.move(self.path(partition))
        self._bases[partition] = base
        if present is not None:
            present.close()
        return True

    def merge(
        self, partition: int, installation: str, read: Sequence[Entry] = (), read_to: Positions = (0, 0)
    ) -> BaseFile | None:
        """A new file of the partition's present one and the events since, not in use yet; None without any since.

        `read`: events that are in no file yet; with them everything is known up to `read_to`.
        """
        with self._merging:
            positions, added = self._unmerged(partition)
            added += read
            if not added:
                return None
            self._merges += 1
            path, present = self._folder / f"{partition:04d}-{self._merges}.merged", self.path(partition)
            old = BaseFile(present) if present.exists() else None
            completed, dead = (0, 0) if old is None else old.head.positions
            covered = max(completed, positions[0], read_to[0]), max(dead, positions[1], read_to[1])
            try:
                write_base(path, installation, partition, covered, old, added, self._first_kept.get(partition, {}))
            finally:
                if old is not None:
                    old.close()
            return BaseFile(path)

    def _unmerged(self, partition: int) -> tuple[Positions, list[Entry]]:
        """The partition's events in the SQLite file, and up to where it has all of them."""
        with closing(connect(self._index)) as db:
            db.execute("BEGIN")
            asked = "SELECT output, next FROM position WHERE partition = ?"
            positions = dict(db.execute(asked, (partition,)).fetchall())
            asked = "SELECT id, output, offset FROM terminal WHERE partition = ?"
            added = [row for row in db.execute(asked, (partition,)) if row[2] < positions.get(row[1], 0)]
        return (positions.get(0, 0), positions.get(1, 0)), added

    def path_of_copy(self, partition: int) -> Path:
        """Where a snapshot is copied to before it is checked."""
        return self._folder / f"{partition:04d}.copied"

    def path(self, partition: int) -> Path:
        """Where the partition's file is, once it has one."""
        return self._folder / f"{partition:04d}.base"

    def _opened(self, path: Path) -> BaseFile | None:
        try:
            return BaseFile(path)
        except Damaged as e:
            log.warning("%s cannot be used (%s): it is made anew from Kafka's log", path, e)
            self._on_damage(str(e))
            path.unlink(missing_ok=True)
        return None


def base_is_missing(recorded: Positions, found: Positions | None) -> bool:
    """Whether the file that the SQLite file counts on is not there: its events were removed from the SQLite file."""
    return found is None or found[0] < recorded[0] or found[1] < recorded[1]


def recorded_bases(db: sqlite3.Connection) -> dict[int, Positions]:
    """Up to where the SQLite file's own rows have been moved into a base file, by partition."""
    return {p: (completed, dead) for p, completed, dead in db.execute("SELECT * FROM base")}
