"""Two process pools in the client's own process, `ppe` and `pebble`: no queue outlives it, so nothing is durable."""

from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

import psutil
from pebble import ProcessPool

from .. import work
from ..processes import kill
from ..system import Handle, NotDone, System, TaskFailed


class Sys(System):
    def start_worker(self) -> None:
        self._pool: Any = ProcessPoolExecutor(2) if self.bench.variant == "ppe" else ProcessPool(max_workers=2)

    def worker_tree(self) -> list[psutil.Process]:
        return psutil.Process().children(recursive=True)

    def worker_state(self) -> str:
        return "in the client"

    def roles(self) -> dict[str, list[psutil.Process]]:
        return {"children": self.worker_tree(), "client": [psutil.Process()]}

    def kill_worker(self) -> None:
        kill(self.worker_tree())

    def submit(self, name: str, *args: Any, priority: str = "normal") -> Handle:
        try:
            if self.bench.variant == "ppe":
                return self._pool.submit(work.FUNCTIONS[name], *args)
            return self._pool.schedule(work.FUNCTIONS[name], args=args)
        except Exception as e:
            raise TaskFailed(f"not accepted: {type(e).__name__}") from e

    def wait(self, handle: Handle, timeout_s: float = 60.0) -> object:
        try:
            return handle.result(timeout_s)
        except FutureTimeout:
            raise NotDone from None
        except Exception as e:  # noqa: BLE001 - the task's own error, of any type
            raise TaskFailed(f"{type(e).__name__}: {str(e)[:100]}") from None

    def stop(self) -> None:
        self.kill_worker()
