"""Killing a tree of processes never reaches others: no pid stands for a group, and no pid that was given again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from agents.execution.child import Child
from headrace.child import process_tree
from headrace.child.process_tree import kill_trees, start_time


@pytest.fixture
def bystander() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("pid", [-1, 0, 1])
def test_a_number_that_stands_for_many_processes_is_no_root(pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(process_tree, "kill", lambda *signalled: sent.append(signalled))
    kill_trees([pid])
    assert sent == []


def test_start_times_tell_processes_apart(bystander: "subprocess.Popen[bytes]") -> None:
    assert 0 < start_time(os.getpid()) <= start_time(bystander.pid)
    bystander.kill()
    bystander.wait()
    assert start_time(bystander.pid) == 0


@pytest.mark.parametrize(("is_reused", "lives"), [(True, True), (False, False)])
def test_a_pid_that_another_process_has_by_now_is_left_alone(
    bystander: "subprocess.Popen[bytes]", is_reused: bool, lives: bool
) -> None:
    child = Child.__new__(Child)
    child._started = {bystander.pid: start_time(bystander.pid) - is_reused}
    child.kill_tree()
    deadline = time.monotonic() + 5
    while not lives and bystander.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (bystander.poll() is None) is lives
    if not lives:
        assert bystander.returncode == -signal.SIGKILL
