"""When a node is killed its forkserver kills all that it has started, which releases its lock."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from headrace.child.process_tree import descendants, processes

PROCESS = Path(__file__).parents[3] / "rigs" / "pool_process.py"


@dataclass
class Doomed:
    process: subprocess.Popen[bytes]
    forkserver: int
    runner: int
    all: set[int]
    lock: Path

    def left(self) -> set[int]:
        seen = processes()
        return {pid for pid in self.all if pid in seen and not seen[pid].zombie}


@pytest.fixture
def doomed(tmp_path: Path) -> Iterator[Doomed]:
    pids = tmp_path / "pids"
    root = str(PROCESS.parents[2])
    process = subprocess.Popen(
        [sys.executable, str(PROCESS), str(tmp_path), str(pids)], env={**os.environ, "PYTHONPATH": root}
    )
    until(pids.exists, 20)
    runner, *others = map(int, pids.read_text().split())
    seen = processes()
    forkserver = seen[seen[runner].parent].parent
    everything = {runner, *others} | descendants([process.pid], seen)
    yield Doomed(process, forkserver, runner, everything, tmp_path / "children.lock")
    process.kill()
    process.wait()


def until(met: Callable[[], object], timeout_s: float) -> float:
    """How long it took, in seconds."""
    began = time.monotonic()
    while not met():
        assert time.monotonic() - began < timeout_s, f"not within {timeout_s} s"
        time.sleep(0.002)
    return time.monotonic() - began


def test_kill_9_of_the_node_ends_its_children_and_theirs(doomed: Doomed) -> None:
    assert len(doomed.left()) >= 8  # forkserver, its tracker, two children, a runner, and three that it has started
    with doomed.lock.open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    doomed.process.kill()
    assert until(lambda: not doomed.left(), 2.0) < 1.0
    with doomed.lock.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_death_of_the_forkserver_ends_the_children_and_their_runners(doomed: Doomed) -> None:
    children = {p.pid for p in processes().values() if p.parent == doomed.forkserver and p.pid in doomed.all}
    assert children
    os.kill(doomed.forkserver, signal.SIGKILL)
    until(lambda: not (children | {doomed.runner}) & doomed.left(), 2.0)


def test_a_runner_ends_with_its_child(doomed: Doomed) -> None:
    os.kill(processes()[doomed.runner].parent, signal.SIGKILL)
    until(lambda: doomed.runner not in doomed.left(), 2.0)


def test_children_end_although_node_and_forkserver_are_killed_at_once(doomed: Doomed) -> None:
    children = {p.pid for p in processes().values() if p.parent == doomed.forkserver and p.pid in doomed.all}
    os.kill(doomed.forkserver, signal.SIGSTOP)  # so that it cannot kill them
    doomed.process.kill()
    doomed.process.wait()
    os.kill(doomed.forkserver, signal.SIGKILL)
    until(lambda: not children & doomed.left(), 2.0)
    for pid in doomed.left():  # nothing knows any more what a child had started
        os.kill(pid, signal.SIGKILL)


def test_sigterm_to_the_forkserver_ends_neither_it_nor_the_node(doomed: Doomed) -> None:
    os.kill(doomed.forkserver, signal.SIGTERM)
    time.sleep(0.1)  # there is no event to wait for
    assert doomed.forkserver in doomed.left()
    assert doomed.process.poll() is None
