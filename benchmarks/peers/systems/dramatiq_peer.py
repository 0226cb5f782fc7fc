"""Dramatiq on Redis. `best`, for the crash rows: short heartbeats, and a supervisor that starts the worker again.

The worker imports this module too.
"""

import sys
import time
from collections.abc import Iterable
from typing import Any

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results, ResultTimeout
from dramatiq.results.backends import RedisBackend

from .. import work
from ..bench import Bench
from ..redis_flush import flush
from ..system import Handle, NotDone, System, TaskFailed, module_of

_BENCH = Bench.from_environ()
_RECOVERY = {"heartbeat_timeout": 5000, "maintenance_chance": 100_000} if _BENCH.variant == "best" else {}

broker = RedisBroker(url=_BENCH.redis, **_RECOVERY)
broker.add_middleware(Results(backend=RedisBackend(url=_BENCH.redis)))
dramatiq.set_broker(broker)

TASKS = {n: dramatiq.actor(f, actor_name=n, store_results=True, priority=10) for n, f in work.FUNCTIONS.items()}
# Priority is an actor's, and is applied among messages already prefetched: the documented way is a queue of its own.
HIGH = {
    n: dramatiq.actor(f, actor_name=f"{n}_high", store_results=True, priority=0, queue_name="high")
    for n, f in work.FUNCTIONS.items()
}


def worker_command(module: str) -> list[str]:
    return [sys.executable, "-m", "dramatiq", module, "--processes", "2", "--threads", "1"]


class Sys(System):
    def commands(self) -> list[list[str]]:
        command = worker_command(module_of(__file__))
        if self.bench.variant != "best":
            return [command]
        # When a child dies, dramatiq's master ends everything and itself.
        return [["bash", "-c", 'while :; do "$@"; sleep 0.2; done', "supervisor", *command]]

    def open(self) -> None:
        flush(self.bench.redis)

    def submit(self, name: str, *args: Any, priority: str = "normal") -> Handle:
        return (HIGH if priority == "high" else TASKS)[name].send(*args)

    def submit_many(self, name: str, calls: Iterable[tuple[Any, ...]], priority: str = "normal") -> Any:
        actor = (HIGH if priority == "high" else TASKS)[name]
        return dramatiq.group([actor.message(*call) for call in calls]).run()

    def wait(self, handle: Handle, timeout_s: float = 60.0) -> object:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return handle.get_result(block=True, timeout=max(1, int((deadline - time.monotonic()) * 1000)))
            except redis.TimeoutError:  # redis-py gives up a blocking read after 5 s
                if time.monotonic() > deadline:
                    raise NotDone from None
            except ResultTimeout:
                raise NotDone from None
            except Exception as e:  # noqa: BLE001 - the task's own error, of any type
                raise TaskFailed(f"{type(e).__name__}: {e}") from None

    def wait_all(self, handles: Any, timeout_s: float = 300.0) -> None:
        super().wait_all(handles if isinstance(handles, list) else handles.children, timeout_s)
