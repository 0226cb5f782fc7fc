"""Replays that wait for their time, after repeated failures. In the event loop.

They wait here, outside any slot, and their claims, with the failure written into them, stand in the journal all the
while: if this node dies, the reaper sends them at once. docs/design/0021 says why not on `tasks.high`.
"""

import asyncio
from collections.abc import Awaitable, Callable

MOST, MOST_BYTES = 1000, 16 * 1024 * 1024  # beyond these a replay does not wait: memory is worth more than patience


class DelayedRetries:
    """A bounded number of delayed sends."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._bytes = 0
        self._now = asyncio.Event()

    def __len__(self) -> int:
        return len(self._tasks)

    def has_room(self, size: int) -> bool:
        return not self._now.is_set() and len(self._tasks) < MOST and self._bytes + size <= MOST_BYTES

    def add(self, wait_s: float, size: int, send: Callable[[], Awaitable[None]]) -> None:
        """Calls `send` after `wait_s`, or earlier on `close`."""
        self._bytes += size
        task = asyncio.get_running_loop().create_task(self._later(wait_s, size, send))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Sends all now and waits for it."""
        self._now.set()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def drop(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _later(self, wait_s: float, size: int, send: Callable[[], Awaitable[None]]) -> None:
        try:
            try:
                await asyncio.wait_for(self._now.wait(), wait_s)
            except TimeoutError:
                pass  # its time has come
            await send()
        finally:
            self._bytes -= size
