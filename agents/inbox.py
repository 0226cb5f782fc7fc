"""What the storekeeper's agent has been given and its arbiter has not yet taken: bounded in number and in bytes.

Used in one event loop. The agent waits when it is full, and then Faust stops fetching: `results` is the only topic of
that app, so nobody else is held up.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from headrace.records import Record

MOST_RECORDS = 512  # in one batch: files are synced and events sent together
MOST_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Delivered:
    """A record of one partition, or (with `record` None) the news that this partition has been given to us."""

    record: Record | None
    generation: int
    given: int = -1

    @property
    def partition(self) -> int:
        return self.given if self.record is None else self.record.partition

    @property
    def size(self) -> int:
        return 0 if self.record is None else len(self.record.value or b"")


class Inbox:
    """One reader, one writer."""

    def __init__(self) -> None:
        self._waiting: list[Delivered] = []
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False

    async def put(self, delivered: Delivered) -> None:
        """Waits for room first. After `close` it is dropped: nobody commits it, so it comes again."""
        await self._room.wait()
        if self._closed:
            return
        self._add(delivered)

    def assigned(self, generation: int, partitions: Iterable[int]) -> None:
        for partition in partitions:
            self._add(Delivered(None, generation, partition))

    async def take(self, timeout_s: float) -> list[Delivered]:
        """All that is there, as soon as there is something; empty after `timeout_s` or `wake`."""
        try:
            await asyncio.wait_for(self._arrived.wait(), timeout_s)
        except TimeoutError:
            return []
        self._arrived.clear()
        taken, self._waiting, self._bytes = self._waiting, [], 0
        self._room.set()
        return taken

    def wake(self) -> None:
        self._arrived.set()

    def close(self) -> None:
        """Lets a writer that waits go on, and takes in nothing more."""
        self._closed = True
        self._room.set()

    def _add(self, delivered: Delivered) -> None:
        self._waiting.append(delivered)
        self._bytes += delivered.size
        self._arrived.set()
        if len(self._waiting) >= MOST_RECORDS or self._bytes >= MOST_BYTES:
            self._room.clear()
