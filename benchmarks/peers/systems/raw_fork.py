"""The limit of two cores: a list halved over two forked processes, results through a pipe, no queue."""

import multiprocessing
from collections.abc import Iterable
from multiprocessing.connection import Connection
from typing import Any

from .. import work
from ..system import Handle, System


def _run(name: str, calls: list[tuple[Any, ...]], to: Connection) -> None:
    to.send([work.FUNCTIONS[name](*call) for call in calls])


class Sys(System):
    def submit_many(self, name: str, calls: Iterable[tuple[Any, ...]], priority: str = "normal") -> Any:
        context, every = multiprocessing.get_context("fork"), list(calls)
        started = []
        for half in (every[::2], every[1::2]):
            here, there = context.Pipe(False)
            process = context.Process(target=_run, args=(name, half, there))
            process.start()
            started.append((process, here))
        return started

    def submit(self, name: str, *args: Any, priority: str = "normal") -> Handle:
        return self.submit_many(name, [args])

    def wait(self, handle: Handle, timeout_s: float = 60.0) -> object:
        self.wait_all(handle)
        return None

    def wait_all(self, handles: Any, timeout_s: float = 300.0) -> None:
        for process, results in handles:
            results.recv()
            process.join()
