"""A service from start to stop, with real processes."""

from pathlib import Path

import psutil
import pytest

from infra.local.service import StartError
from tests.rigs.programs import STUBBORN, Program

_WITH_CHILD = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print('child', child.pid, flush=True)\n"
    "time.sleep(600)"
)


def test_start_waits_until_it_is_ready_and_stop_ends_it(tmp_path: Path) -> None:
    program = Program(tmp_path, "import time; print('on', flush=True); time.sleep(600)", mark="on")
    assert program.pid == 0
    program.start(20)
    assert program.alive
    assert psutil.pid_exists(program.pid)
    assert program.stop(10)
    assert (program.pid, program.returncode) == (0, -15)


def test_a_program_that_ends_during_its_start_is_reported_with_its_last_line(tmp_path: Path) -> None:
    program = Program(tmp_path, "raise SystemExit('the tide is out')", mark="never")
    with pytest.raises(StartError, match=r"program ended during its start: the tide is out .*program\.log"):
        program.start(20)


def test_a_program_that_is_never_ready_is_killed(tmp_path: Path) -> None:
    program = Program(tmp_path, mark="never")
    with pytest.raises(StartError, match="not ready after 0 s"):
        program.start(0.3)
    assert not program.alive


def test_a_program_that_does_not_stop_is_killed_and_reported(tmp_path: Path) -> None:
    program = Program(tmp_path, STUBBORN, mark="on")
    program.start(20)
    assert not program.stop(0.2)
    assert not program.alive


def test_kill_reaches_the_children_too(tmp_path: Path) -> None:
    program = Program(tmp_path, _WITH_CHILD, mark="child")
    program.start(20)
    child = psutil.Process(int(program.last_line().split()[1]))
    program.kill()
    _, alive = psutil.wait_procs([child], timeout=5)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def test_it_can_be_started_again(tmp_path: Path) -> None:
    program = Program(tmp_path)
    program.start(20)
    first = program.pid
    program.kill()
    program.start(20)
    assert program.pid not in (0, first)
    program.kill()
