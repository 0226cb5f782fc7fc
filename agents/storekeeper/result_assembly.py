"""Results that come in chunks, put together in constant memory. Used by the arbiter, in its one thread.

Chunks of one result share id, attempt, boot and source, and come in order on one partition; other outcomes overtake
between them, and those of a copy too: an id that was sent to two partitions runs twice. The log is the state: until a
set is whole, the offset of its first chunk holds the partition's commit back, so that after any crash, by whoever takes
over, it is read again. OSError = the disk does not take the bytes now.
"""

from collections.abc import Callable
from dataclasses import dataclass

from agents.storekeeper.partial_files import PartialFile
from headrace.contract.outcome import Outcome
from headrace.contract.records import Source

# By the log's own clock, so that every storekeeper judges alike. A node that cannot reach Kafka for a day has long been
# replaced, and a set that nobody finishes must not hold the commit until the log forgets what lies behind it.
ABANDONED_MS = 24 * 3600 * 1000

Key = tuple[str, int, str, Source]  # id, attempt, boot, source


@dataclass(slots=True)
class ChunkSet:
    """One result on its way. `part` None = a chunk is missing: it can never be whole."""

    partition: int
    first_offset: int
    chunks: int
    part: PartialFile | None
    next: int = 0  # chunk
    last_ms: int = 0  # when the newest chunk was appended to the log


class Incomplete(Exception):
    """The last chunk is here and others are not, and never will be."""


class ChunkSets:
    """All sets that are not whole yet."""

    def __init__(self, begin: Callable[[], PartialFile], drop: Callable[[PartialFile], None]) -> None:
        """`begin` makes an empty part, `drop` removes one."""
        self._begin, self._drop = begin, drop
        self._sets: dict[Key, ChunkSet] = {}

    def __len__(self) -> int:
        return len(self._sets)

    def add(self, chunk: Outcome, at_ms: int) -> PartialFile | None:
        """Takes one chunk in. The whole part after the last one, which is the caller's then; None before.

        A chunk that is there already changes nothing. Incomplete with the last one of a set that has a hole.
        """
        key = (chunk.id, chunk.attempt, chunk.boot, chunk.source)
        found = self._sets.get(key)
        if found is None:
            part = self._begin() if chunk.chunk == 0 else None
            found = self._sets[key] = ChunkSet(chunk.partition, chunk.offset, chunk.chunks, part)
        found.last_ms = at_ms
        if found.part is not None and chunk.chunk == found.next and chunk.chunks == found.chunks:
            found.part.append(chunk.value)
            found.next += 1
        elif chunk.chunk > found.next or chunk.chunks != found.chunks:
            self._spoil(found)
        if chunk.chunk < chunk.chunks - 1:
            return None
        del self._sets[key]
        if found.part is None:
            raise Incomplete
        return found.part

    def hold(self, partition: int) -> int | None:
        """The lowest offset that a commit must not pass, or None when no set is open there."""
        held = (s.first_offset for s in self._sets.values() if s.partition == partition and s.part is not None)
        return min(held, default=None)

    def forget(self, task_id: str) -> None:
        """Drops what there is of a task's results: it has ended otherwise."""
        self._remove(lambda key, _: key[0] == task_id)

    def forget_abandoned(self, partition: int, now_ms: int) -> int:
        """Drops sets whose newest chunk is a day older than the log is now; returns how many."""
        return self._remove(lambda _, s: s.partition == partition and s.last_ms < now_ms - ABANDONED_MS)

    def clear(self) -> None:
        self._remove(lambda *_: True)

    def _remove(self, matches: Callable[[Key, ChunkSet], bool]) -> int:
        if not self._sets:
            return 0
        keys = [key for key, found in self._sets.items() if matches(key, found)]
        for key in keys:
            self._spoil(self._sets.pop(key))
        return len(keys)

    def _spoil(self, found: ChunkSet) -> None:
        if found.part is not None:
            self._drop(found.part)
            found.part = None
