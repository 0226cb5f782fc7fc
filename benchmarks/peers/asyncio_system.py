"""A system whose client is asyncio's: it submits and waits in an event loop of its own, some calls at a time."""

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from .system import Handle, System

_LONE_CHECK_S, _MANY_CHECK_S = 0.002, 0.01  # how often the client asks for a result
_AWAITED_TOGETHER = 16


class AsyncioSystem(System):
    """`open` must call `open_loop` before anything else."""

    sent_together = 50

    @abstractmethod
    async def enqueue(self, name: str, args: tuple[Any, ...]) -> Handle:
        """Submits one call."""

    @abstractmethod
    async def result(self, handle: Handle, timeout_s: float, check_s: float) -> object:
        """Its result, asked for every `check_s` seconds; NotDone or TaskFailed."""

    def open_loop(self) -> None:
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)

    def submit(self, name: str, *args: Any, priority: str = "normal") -> Handle:
        return self._loop.run_until_complete(self.enqueue(name, args))

    def submit_many(self, name: str, calls: Iterable[tuple[Any, ...]], priority: str = "normal") -> Any:
        send = _in_parts(lambda call: self.enqueue(name, call), list(calls), self.sent_together)
        return self._loop.run_until_complete(send)

    def wait(self, handle: Handle, timeout_s: float = 60.0) -> object:
        return self._loop.run_until_complete(self.result(handle, timeout_s, _LONE_CHECK_S))

    def wait_all(self, handles: Any, timeout_s: float = 300.0) -> None:
        wait = _in_parts(lambda handle: self.result(handle, timeout_s, _MANY_CHECK_S), handles, _AWAITED_TOGETHER)
        self._loop.run_until_complete(wait)


async def _in_parts(call: Callable[[Any], Awaitable[Any]], items: list[Any], together: int) -> list[Any]:
    """The results for all items, `together` at a time."""
    made = list[Any]()
    for first in range(0, len(items), together):
        made += await asyncio.gather(*[call(item) for item in items[first : first + together]])
    return made
