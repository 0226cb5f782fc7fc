"""What the storekeeper's consumer has read and its agent has not yet taken: bounded in number and in bytes.

The consumer's thread puts, the agent takes; both may be asked from any thread. What a generation of the group has left
here when it ends is dropped: nobody commits it, so it comes again, to whoever has its partition then.
"""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from headrace.contract.records import Record

MOST_RECORDS = 512  # in one batch: files are synced and events sent together
MOST_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class OutcomeBatch:
    """All that was there. `given`: partitions that this generation has brought and no batch has named before."""

    generation: int
    given: frozenset[int]
    records: list[Record]


class BatchBuffer:
    """One reader, one writer."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._generation = -1
        self._given: frozenset[int] = frozenset()
        self._records: list[Record] = []
        self._bytes = 0
        self._taken_at: float | None = None  # while the reader is at work on what it took
        self._closed = False

    def begin(self, generation: int, partitions: Iterable[int]) -> None:
        """A new generation of the group, with these partitions."""
        with self._changed:
            self._generation, self._given = generation, frozenset(partitions)
            self._records, self._bytes = [], 0
            self._changed.notify_all()

    def end(self) -> None:
        """The generation is over: what has not been taken is dropped."""
        with self._changed:
            self._given, self._records, self._bytes = frozenset(), [], 0
            self._changed.notify_all()

    def put(self, records: list[Record]) -> None:
        with self._changed:
            self._records += records
            self._bytes += sum(len(r.value or b"") for r in records)

    @property
    def full(self) -> bool:
        return len(self._records) >= MOST_RECORDS or self._bytes >= MOST_BYTES

    def wait_room(self, timeout_s: float) -> bool:
        """Whether there is room, within that time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.full, timeout_s)

    def take(self) -> OutcomeBatch | None:
        """All that is there; None when that is nothing, or after `close`. Then `done` is to be called."""
        with self._changed:
            if self._closed or not (self._records or self._given):
                return None
            taken = OutcomeBatch(self._generation, self._given, self._records)
            self._given, self._records, self._bytes = frozenset(), [], 0
            self._taken_at = time.monotonic()
            self._changed.notify_all()
            return taken

    def done(self) -> None:
        """The reader is no longer at work."""
        with self._changed:
            self._taken_at = None
            self._changed.notify_all()

    def wait_done(self, timeout_s: float) -> bool:
        """Whether the reader is not at work, within that time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._taken_at is None, timeout_s)

    def busy_s(self) -> float:
        """For how long the reader has been at work on what it took; 0 when it is not."""
        since = self._taken_at
        return 0.0 if since is None else time.monotonic() - since

    def close(self) -> None:
        """Nothing more is taken."""
        with self._changed:
            self._closed = True
