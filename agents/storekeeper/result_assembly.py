"""Puts results that come in chunks together, in constant memory. Used by the arbiter, in its one thread.

Chunks of one result share id, attempt, boot and source, and come in order in one partition. Other outcomes may come
between them. So may chunks of a copy: an id that was submitted in two partitions runs twice. The log is the state:
until a set is whole, the offset of its first chunk holds the partition's commit back. So after a crash the
partition's owner reads all its chunks again. OSError = the disk does not take the bytes now.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from headrace.contract.outcome import Outcome
from headrace.contract.records import Source

from .partial_files import PartialFile

# A node that has not reached Kafka for a day was replaced long ago. A set that is never finished must not hold the
# commit back for ever. No timestamp alone may say that the day is over: a result would be lost when it is wrong.
ABANDONED_S = 24 * 3600.0
# This process has waited so long for a chunk, and both the log's clock and its own say that the day is over. Without
# this shorter way a storekeeper that is restarted every day would never drop a set.
AGREED_S = 3600.0

Key = tuple[str, int, str, Source]  # id, attempt, boot, source


@dataclass(slots=True)
class ChunkSet:
    """One result that is not whole yet. `part` None = a chunk is missing, so it never will be."""

    partition: int
    first_offset: int
    chunks: int
    part: PartialFile | None
    next: int = 0  # number of the next chunk
    last_ms: int = 0  # when the newest chunk was appended to the log, by its timestamp
    read_at: float = 0.0  # when this process read it, on the monotonic clock


class Incomplete(Exception):
    """The last chunk has come and an earlier one is missing."""


class ChunkSets:
    """All sets that are not whole yet."""

    def __init__(
        self,
        new_part: Callable[[], PartialFile],
        drop_part: Callable[[PartialFile], None],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._new_part, self._drop_part = new_part, drop_part
        self._clock, self._wall_clock = clock, wall_clock
        self._sets: dict[Key, ChunkSet] = {}

    def __len__(self) -> int:
        return len(self._sets)

    def add_chunk(self, chunk: Outcome, at_ms: int) -> PartialFile | None:
        """Adds one chunk, appended to the log at `at_ms`. Returns the whole result after the last chunk, else None.

        The result then belongs to the caller. A repeated chunk changes nothing. Incomplete with the last chunk of a set
        in which one is missing.
        """
        key = (chunk.id, chunk.attempt, chunk.boot, chunk.source)
        found = self._sets.get(key)
        if found is None:
            part = self._new_part() if chunk.chunk == 0 else None
            found = self._sets[key] = ChunkSet(chunk.partition, chunk.offset, chunk.chunks, part)
        found.last_ms, found.read_at = at_ms, self._clock()
        if found.part is not None and chunk.chunk == found.next and chunk.chunks == found.chunks:
            found.part.append(chunk.value)
            found.next += 1
        elif chunk.chunk > found.next or chunk.chunks != found.chunks:
            self._discard_part(found)
        if chunk.chunk < chunk.chunks - 1:
            return None
        del self._sets[key]
        if found.part is None:
            raise Incomplete
        return found.part

    def commit_limit(self, partition: int) -> int | None:
        """The offset that a commit of the partition must not pass; None when no set is open there."""
        held = (s.first_offset for s in self._sets.values() if s.partition == partition and s.part is not None)
        return min(held, default=None)

    def drop_task(self, task_id: str) -> None:
        """Drops all sets of a task that has ended."""
        self._drop_matching(lambda key, _: key[0] == task_id)

    def drop_abandoned(self, partition: int, now_ms: int) -> int:
        """Drops sets whose newest chunk came more than a day ago; returns how many. `now_ms`: the log's time."""
        return self._drop_matching(lambda _, s: s.partition == partition and self._is_abandoned(s, now_ms))

    def _is_abandoned(self, found: ChunkSet, log_ms: int) -> bool:
        waited_s = self._clock() - found.read_at
        if waited_s <= AGREED_S:
            return False
        agreed_ms = min(log_ms, int(self._wall_clock() * 1000))
        return waited_s > ABANDONED_S or agreed_ms - found.last_ms > ABANDONED_S * 1000

    def drop_all(self) -> None:
        self._drop_matching(lambda *_: True)

    def _drop_matching(self, matches: Callable[[Key, ChunkSet], bool]) -> int:
        if not self._sets:
            return 0
        keys = [key for key, found in self._sets.items() if matches(key, found)]
        for key in keys:
            self._discard_part(self._sets.pop(key))
        return len(keys)

    def _discard_part(self, found: ChunkSet) -> None:
        if found.part is not None:
            self._drop_part(found.part)
            found.part = None
