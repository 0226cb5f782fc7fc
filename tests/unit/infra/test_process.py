"""Children that die with their parent, ports in use, and the last line of a log."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from infra.local.process import end_left_over, last_line, rotate_log, start_tied

_PARENT = """
import sys, time
from pathlib import Path
from infra.local.process import start_tied
child = start_tied([sys.executable, "-c", "import time; time.sleep(600)"], Path(sys.argv[1]))
print(child.pid, flush=True)
time.sleep(600)
"""


def _gone(pid: int, within_s: float = 5.0) -> bool:
    deadline = time.monotonic() + within_s
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_a_child_does_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert psutil.pid_exists(child)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert _gone(child)


def test_a_child_leads_a_group_of_its_own_and_writes_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "new" / "log"
    child = start_tied([sys.executable, "-c", "import os; print(os.getpgid(0) == os.getpid())"], log)
    assert child.wait(10) == 0
    assert log.read_text() == "True\n"


def test_a_left_over_process_is_killed_only_if_its_command_line_matches(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = "import time; print('on', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code, "our-mark"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        pid_file.write_text(str(process.pid))
        end_left_over(pid_file, "another-mark")
        assert process.poll() is None
        end_left_over(pid_file, "our-mark")
        assert process.wait(5) == -signal.SIGKILL


def test_without_a_pid_file_nothing_is_killed(tmp_path: Path) -> None:
    end_left_over(tmp_path / "pid", "mark")
    (tmp_path / "pid").write_text("no number")
    end_left_over(tmp_path / "pid", "mark")


def test_the_last_line_of_a_log_is_the_last_non_empty_one(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_line(log) == "it has no log"
    log.write_text("\n \n")
    assert last_line(log) == "its log is empty"
    log.write_text("x" * 50_000 + "\nValueError: no\n\n")
    assert last_line(log) == "ValueError: no"
    log.write_text("y" * 1000)
    assert last_line(log, 10) == "y" * 9 + "…"


def test_a_log_is_set_aside_when_it_has_grown_too_large(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("small")
    rotate_log(log)
    assert log.exists()
    with log.open("r+b") as f:
        f.truncate(9 * 2**20)
    rotate_log(log)
    assert not log.exists()
    assert (tmp_path / "log.1").stat().st_size == 9 * 2**20
