"""How long the roles take to start and to take over, after the tasks that the topics hold: real processes, one by one.

Each role starts three times: `first`, with an empty data directory and no snapshots; `takeover`, with an empty one and
the snapshots of the first; `restart`, with its own. A storekeeper has started when it has ended a new task in each
partition, every other role when it says that it is ready. StartError when a role does not start.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from agents.storekeeper.index_snapshots import FOLDER as INDEX_SNAPSHOTS
from agents.storekeeper.index_upkeep import MERGE_EVENTS
from gateway.view.snapshot_folder import FOLDER as VIEW_SNAPSHOTS
from headrace.contract.ids import new_id
from headrace.contract.outcome import Outcome
from headrace.contract.records import Source
from headrace.kafka.client import Kafka
from headrace.kafka.partitioner import partition_of
from headrace.kafka.sender import Sender
from headrace.settings import Settings
from infra.local.memory import MemoryPeak
from infra.local.process import start_tied
from infra.local.roles import Role, machine_roles

from .generate import wait_for_ends

_START_S = 3600.0  # the longest start
_SNAPSHOTS_S = 300.0  # the longest wait for snapshots; without them a takeover is like a first start
_MIB = 1024 * 1024
_DONE = "lifecycle.completed"
ROLES = ("storekeeper", "gateway", "worker", "audit")


@dataclass(frozen=True, slots=True)
class Start:
    """One start of one role. `cpu_s` counts its own CPU and its children's until it had started, and does not depend on
    what else the machine does. Memory is the peak until it has left its snapshots, of the role and its children."""

    tasks: int
    role: str
    how: str
    seconds: float
    cpu_s: float
    memory_mib: float
    disk_mib: float  # of its data directory


class Starts:
    """Measures all roles on one installation, whose results root is in `folder`."""

    def __init__(self, settings: Settings, folder: Path, partitions: int) -> None:
        self._folder, self._partitions = folder, partitions
        self._root = folder / "results"
        self._settings = replace(settings, results=str(self._root), view_snapshot_s=20.0)
        self._kafka = Kafka(settings, "growth")

    def measure(self, tasks: int, roles: Collection[str] = ROLES) -> Iterator[Start]:
        """One row after another, of those roles; the data of an earlier measurement is removed first."""
        # The root itself stays: Kafka knows its id.
        for left in (self._folder / "data", self._root / INDEX_SNAPSHOTS, self._root / VIEW_SNAPSHOTS):
            shutil.rmtree(left, ignore_errors=True)
        merges = tasks // self._partitions > MERGE_EVENTS
        for name, has_snapshots in (
            ("storekeeper", lambda: self._index_is_saved() or not merges),
            ("gateway", self._view_is_saved),
        ):
            if name in roles:
                yield self._start(tasks, name, "first", name, has_snapshots)
                yield self._start(tasks, name, "takeover", f"{name}-2", lambda: True)
                yield self._start(tasks, name, "restart", f"{name}-2", lambda: True)
        for how in ("first", "restart") if "worker" in roles else ():
            yield self._start(tasks, "worker-1", how, "worker", lambda: True)
        for how in ("first", "restart") if "audit" in roles else ():
            yield self._audit(tasks, how)

    def _start(self, tasks: int, name: str, how: str, data: str, may_stop: Callable[[], bool]) -> Start:
        settings = replace(self._settings, data=self._folder / "data" / data)
        role = next(r for r in machine_roles(settings, self._folder / "logs") if r.name == name)
        ended = self._tasks_to_end() if name == "storekeeper" else None
        with _running(role), MemoryPeak(lambda: {"role": role.pid} if role.pid else {}) as memory:
            begun = time.monotonic()
            role.wait_ready(_START_S)
            while ended is not None and not ended():
                time.sleep(0.05)
            took_s, cpu_s = time.monotonic() - begun, _cpu_s(role.pid)
            _wait(may_stop, _SNAPSHOTS_S)
        return Start(tasks, name, how, took_s, cpu_s, sum(memory.peak.values()), _size(settings.data))

    def _tasks_to_end(self) -> Callable[[], bool]:
        """Sends an outcome to each partition; returns whether all of them have got their terminal events."""
        places = [(_DONE, p) for p in range(self._partitions)]
        admin = self._kafka.admin()
        before, sender = wait_for_ends(self._kafka, admin, places), Sender(self._kafka)
        sender.send_all([_outcome(p, self._partitions).encode() for p in range(self._partitions)], 60.0)
        sender.close()
        return lambda: all(end > before[place] for place, end in wait_for_ends(self._kafka, admin, places).items())

    def _audit(self, tasks: int, how: str) -> Start:
        folder = self._folder / "data" / "audit"
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "benchmarks.growth.audit_start", str(folder)]
        environ = replace(self._settings, data=folder).environ()
        begun, cpu_s = time.monotonic(), _children_cpu_s()
        process = start_tied(command, self._folder / "logs" / "audit.log", environ)
        with MemoryPeak(lambda: {"audit": process.pid}) as memory:
            code = process.wait()
        if code:
            raise RuntimeError(f"the audit ended with code {code}")
        took_s, cpu_s = time.monotonic() - begun, _children_cpu_s() - cpu_s
        return Start(tasks, "audit", how, took_s, cpu_s, sum(memory.peak.values()), _size(folder))

    def _index_is_saved(self) -> bool:
        return len(list((self._root / INDEX_SNAPSHOTS).glob("[0-9]*"))) >= self._partitions

    def _view_is_saved(self) -> bool:
        """Whether a gateway has left a copy of its view below the results root."""
        return any((self._root / VIEW_SNAPSHOTS).glob("*.json"))


@contextmanager
def _running(role: Role) -> Iterator[None]:
    role.launch()
    try:
        yield
    finally:
        if not role.stop(60.0):
            role.kill()


def _outcome(partition: int, partitions: int) -> Outcome:
    while partition_of((task_id := new_id()).encode(), partitions) != partition:
        pass
    now_ms = int(time.time() * 1000)
    return Outcome(
        task_id,
        "completed",
        b"[2,3,5,7]",
        attempt=1,
        boot=new_id(),
        node="node-1",
        source=Source("tasks.normal", partition, 0),
        submitted_ms=now_ms,
        name="prime",
        directory="demo",
        started_ms=now_ms,
        ended_ms=now_ms,
    )


def _cpu_s(pid: int) -> float:
    """CPU seconds of the process and its descendants, those included that have ended."""
    root = psutil.Process(pid)
    times = [p.cpu_times() for p in (root, *root.children(recursive=True))]
    return float(sum(t.user + t.system + t.children_user + t.children_system for t in times))


def _children_cpu_s() -> float:
    """CPU seconds of our children that have ended."""
    found = os.times()
    return found.children_user + found.children_system


def _wait(done: Callable[[], bool], most_s: float) -> None:
    deadline = time.monotonic() + most_s
    while not done() and time.monotonic() < deadline:
        time.sleep(0.2)


def _size(folder: Path) -> float:
    """MiB on disk."""
    return sum(f.stat().st_blocks * 512 for f in folder.rglob("*") if f.is_file()) / _MIB
