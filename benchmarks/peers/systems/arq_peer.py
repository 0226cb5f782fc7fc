"""arq: two workers of one job at a time. The workers import this module too."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from arq import create_pool, func
from arq.connections import RedisSettings
from arq.jobs import ResultNotFound

from .. import work
from ..bench import Bench
from ..redis_flush import flush
from ..system import Handle, NotDone, System, TaskFailed, module_of

_BENCH = Bench.from_environ()
_REDIS = RedisSettings.from_dsn(_BENCH.redis)
_LONE_CHECK_S, _MANY_CHECK_S = 0.002, 0.01
_SENT_TOGETHER, _AWAITED_TOGETHER = 50, 16


def _coroutine(function: Callable[..., object]) -> Callable[..., Awaitable[object]]:
    async def run(_context: dict[str, Any], *args: Any) -> object:
        return function(*args)

    run.__qualname__ = function.__name__
    return run


class WorkerSettings:
    functions = tuple(func(_coroutine(f), name=n, keep_result=600) for n, f in work.FUNCTIONS.items())
    redis_settings = _REDIS
    poll_delay = 0.01  # the library's own is 0.5 s
    max_jobs = 1


class Sys(System):
    def commands(self) -> list[list[str]]:
        return [[sys.executable, "-m", "arq", f"{module_of(__file__)}.WorkerSettings"] for _ in range(2)]

    def open(self) -> None:
        flush(self.bench.redis)
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._pool = self._loop.run_until_complete(create_pool(_REDIS))

    def submit(self, name: str, *args: Any, priority: str = "normal") -> Handle:
        return self._loop.run_until_complete(self._pool.enqueue_job(name, *args))

    def submit_many(self, name: str, calls: Iterable[tuple[Any, ...]], priority: str = "normal") -> Any:
        async def send() -> list[Handle]:
            made, every = list[Handle](), list(calls)
            for first in range(0, len(every), _SENT_TOGETHER):
                some = every[first : first + _SENT_TOGETHER]
                made += await asyncio.gather(*[self._pool.enqueue_job(name, *call) for call in some])
            return made

        return self._loop.run_until_complete(send())

    def wait(self, handle: Handle, timeout_s: float = 60.0) -> object:
        return self._loop.run_until_complete(_result(handle, timeout_s, _LONE_CHECK_S))

    def wait_all(self, handles: Any, timeout_s: float = 300.0) -> None:
        async def wait() -> None:
            for first in range(0, len(handles), _AWAITED_TOGETHER):
                some = handles[first : first + _AWAITED_TOGETHER]
                await asyncio.gather(*[_result(h, timeout_s, _MANY_CHECK_S) for h in some])

        self._loop.run_until_complete(wait())


async def _result(handle: Handle, timeout_s: float, check_s: float) -> object:
    try:
        try:
            return await handle.result(timeout=timeout_s, poll_delay=check_s)
        except ResultNotFound:  # the job ended between the client's two look-ups
            return await handle.result(timeout=timeout_s, poll_delay=check_s)
    except TimeoutError:
        raise NotDone from None
    except Exception as e:  # noqa: BLE001 - the task's own error, of any type
        raise TaskFailed(repr(e)) from None
