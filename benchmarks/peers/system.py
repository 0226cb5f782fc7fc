"""What the harness needs of a system: `System`, which each module of `systems/` implements.

NotDone and TaskFailed are the two ways in which a wait ends without a result.
"""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from subprocess import Popen
from typing import Any

import psutil

from infra.local.process import start_tied

from .bench import Bench
from .processes import end, existing, kill, tree

Handle = Any  # of a submitted task; each system has its own


class TaskFailed(Exception):
    """The system told the client that the task failed for good."""


class NotDone(Exception):
    """No answer in the time allowed."""


class System:
    """One system: a worker with two processes that run tasks, and the client that submits them."""

    runs_tasks = True
    worker_first = False  # its client needs a running worker
    address = ""  # host:port of its web service

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._workers: list[Popen[bytes]] = []
        self._starts = 0

    # --- the worker
    def commands(self) -> list[list[str]]:
        """Program and arguments of each process of the worker."""
        return []

    def start_worker(self) -> None:
        self._starts += 1
        for number, command in enumerate(self.commands()):
            self._workers.append(self.start(command, f"worker-{self._starts}.{number}"))

    def start(self, command: Sequence[str], name: str, environ: dict[str, str] | None = None) -> Popen[bytes]:
        """Starts a process of the system; the kernel kills it when this process dies."""
        return start_tied(command, self.bench.folder / f"{name}.log", environ or self.bench.environ())

    def worker_tree(self) -> list[psutil.Process]:
        """The worker's processes and all their descendants."""
        return [p for worker in self._workers for p in tree(worker.pid)]

    def worker_state(self) -> str:
        """'alive', or the exit codes of the worker's processes."""
        codes = [w.poll() for w in self._workers]
        return "alive" if all(c is None for c in codes) else f"exited {codes}"

    def kill_worker(self) -> None:
        """SIGKILL, to parents first."""
        kill(self.worker_tree())
        for worker in self._workers:
            worker.wait()
        self._workers = []

    def roles(self) -> dict[str, list[psutil.Process]]:
        """Every process that takes part, by role, for the CPU that each takes."""
        worker = self.worker_tree()
        parents = {w.pid for w in self._workers}
        return {
            "worker": [p for p in worker if p.pid in parents],
            "children": [p for p in worker if p.pid not in parents],
            "broker": existing(self.bench.brokers.values()),
            "client": [psutil.Process()],
        }

    # --- the client
    def open(self) -> None:
        """Prepares the brokers and connects the client."""

    def submit(self, name: str, *args: Any, priority: str = "normal") -> Handle:
        """Submits a call of `work.FUNCTIONS[name]`; `priority` is low, normal or high."""
        raise NotImplementedError

    def submit_many(self, name: str, calls: Iterable[tuple[Any, ...]], priority: str = "normal") -> Any:
        """Submits many through the system's batch call, where it has one; returns what `wait_all` takes."""
        return [self.submit(name, *call, priority=priority) for call in calls]

    def wait(self, handle: Handle, timeout_s: float = 60.0) -> object:
        """Returns when the task has ended. NotDone after `timeout_s`, TaskFailed."""
        raise NotImplementedError

    def wait_all(self, handles: Any, timeout_s: float = 300.0) -> None:
        deadline = time.monotonic() + timeout_s
        for handle in handles:
            self.wait(handle, max(0.01, deadline - time.monotonic()))

    def close(self) -> None:
        """Ends what `open` started."""

    def stop(self) -> None:
        """Ends everything."""
        try:
            self.close()
        finally:
            end(self._workers, self.worker_tree())


def module_of(file: str) -> str:
    """The module's name for a worker's command line: 'benchmarks.peers.systems.celery_peer'."""
    return f"benchmarks.peers.systems.{Path(file).stem}"
