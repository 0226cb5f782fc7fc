"""Retries that wait for their time after repeated failures. Used by the finisher, in the event loop.

They wait here, outside any slot. Meanwhile their claims, which hold the failure, stay in the journal: when this node
dies, the reaper sends the retries at once. docs/design/0021 says why they do not wait on `tasks.high`.
"""

import asyncio
from collections.abc import Awaitable, Callable

from ..execution.job import Key

MAX_RETRIES, MAX_BYTES = 1000, 16 * 1024 * 1024  # beyond these a retry is sent at once, so that memory stays bounded


class DelayedRetries:
    """A bounded number of delayed sends."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[None], Key] = {}
        self._bytes = 0
        self._send_now = asyncio.Event()

    def has_room(self, size: int) -> bool:
        """Whether one more retry of `size` bytes may wait; never after `close`."""
        return not self._send_now.is_set() and len(self._tasks) < MAX_RETRIES and self._bytes + size <= MAX_BYTES

    def schedule(self, wait_s: float, size: int, send: Callable[[], Awaitable[None]], key: Key) -> None:
        """Calls `send` after `wait_s`, or on `close`. `size`: bytes that the retry of job `key` keeps in memory.

        `send` must not fail: nobody else has the job any more.
        """
        self._bytes += size
        task = asyncio.get_running_loop().create_task(self._send_later(wait_s, size, send))
        self._tasks[task] = key
        task.add_done_callback(self._tasks.pop)

    def keys(self) -> set[Key]:
        """Of the jobs whose retries wait or are being sent."""
        return set(self._tasks.values())

    async def close(self) -> None:
        """Sends all retries now; returns when all are sent."""
        self._send_now.set()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def cancel_all(self) -> None:
        """Drops all retries unsent."""
        for task in self._tasks:
            task.cancel()

    async def _send_later(self, wait_s: float, size: int, send: Callable[[], Awaitable[None]]) -> None:
        try:
            try:
                await asyncio.wait_for(self._send_now.wait(), wait_s)
            except TimeoutError:
                pass  # its time has come
            await send()
        finally:
            self._bytes -= size
