"""arq: two workers of one job at a time. The workers import this module too."""

import sys
from collections.abc import Awaitable, Callable
from typing import Any

from arq import create_pool, func
from arq.connections import RedisSettings
from arq.jobs import ResultNotFound

from .. import work
from ..asyncio_system import AsyncioSystem
from ..bench import Bench
from ..redis_flush import flush
from ..system import Handle, NotDone, TaskFailed, module_of

_BENCH = Bench.from_environ()
_REDIS = RedisSettings.from_dsn(_BENCH.redis)


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


class Sys(AsyncioSystem):
    def commands(self) -> list[list[str]]:
        return [[sys.executable, "-m", "arq", f"{module_of(__file__)}.WorkerSettings"] for _ in range(2)]

    def open(self) -> None:
        flush(self.bench.redis)
        self.open_loop()
        self._pool = self._loop.run_until_complete(create_pool(_REDIS))

    async def enqueue(self, name: str, args: tuple[Any, ...]) -> Handle:
        return await self._pool.enqueue_job(name, *args)

    async def result(self, handle: Handle, timeout_s: float, check_s: float) -> object:
        try:
            try:
                return await handle.result(timeout=timeout_s, poll_delay=check_s)
            except ResultNotFound:  # the job ended between the client's two look-ups
                return await handle.result(timeout=timeout_s, poll_delay=check_s)
        except TimeoutError:
            raise NotDone from None
        except Exception as e:  # noqa: BLE001 - the task's own error, of any type
            raise TaskFailed(repr(e)) from None
