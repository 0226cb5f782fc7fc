"""Celery on Redis: `late` acknowledges after the task, `best` also finds lost deliveries within seconds.

The worker imports this module too. `best` is for the crash rows: by default a lost delivery comes back after an hour.
"""

import sys
from collections.abc import Iterable
from typing import Any

from celery import Celery, group
from celery.exceptions import TimeoutError as CeleryTimeout

from .. import work
from ..bench import Bench
from ..redis_flush import flush
from ..system import Handle, NotDone, System, TaskFailed, module_of

_BENCH = Bench.from_environ()
PRIORITY = {"low": 9, "normal": 5, "high": 0}  # on Redis 0 is the highest
_RECOVERY = {"visibility_timeout": 10, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}

app = Celery("bench", broker=_BENCH.redis, backend=_BENCH.redis)
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1)
if _BENCH.variant == "best":
    app.conf.update(task_reject_on_worker_lost=True, broker_transport_options=_RECOVERY)
TASKS = {name: app.task(name=name)(f) for name, f in work.FUNCTIONS.items()}


def worker_command(module: str) -> list[str]:
    return [sys.executable, "-m", "celery", "-A", module, "worker", "-c", "2", "-P", "prefork", "-l", "WARNING"]


class Sys(System):
    def commands(self) -> list[list[str]]:
        return [worker_command(module_of(__file__))]

    def open(self) -> None:
        flush(self.bench.redis)

    def submit(self, name: str, *args: Any, priority: str = "normal") -> Handle:
        return TASKS[name].apply_async(args, priority=PRIORITY[priority])

    def submit_many(self, name: str, calls: Iterable[tuple[Any, ...]], priority: str = "normal") -> Any:
        return group(TASKS[name].s(*call).set(priority=PRIORITY[priority]) for call in calls).apply_async()

    def wait(self, handle: Handle, timeout_s: float = 60.0) -> object:
        try:
            return handle.get(timeout=timeout_s)
        except CeleryTimeout:
            raise NotDone from None
        except Exception as e:  # noqa: BLE001 - the task's own error, of any type
            raise TaskFailed(f"{type(e).__name__}: {e}") from None

    def wait_all(self, handles: Any, timeout_s: float = 300.0) -> None:
        if isinstance(handles, list):
            super().wait_all(handles, timeout_s)
        else:
            handles.get(timeout=timeout_s)
