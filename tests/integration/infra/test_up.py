"""`headrace up` as a user runs it: its lines, its pages, and no process left behind."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import psutil
import pytest

from infra.local.cluster import free_ports
from infra.local.process import free_port
from tests.rigs.http import get

_PATIENCE_S = 100.0


class Up:
    """A running `headrace up` on a directory, with ports of its own that it keeps over restarts."""

    def __init__(
        self,
        data: Path,
        names: Sequence[str] = (
            "EMBEDDED_KAFKA",
            "EMBEDDED_DATABASE",
            "HTTP",
            "STATS_HTTP",
            "STOREKEEPER_HTTP",
            "ANALYTICS_HTTP",
        ),
    ) -> None:
        """`names`: the addresses that it is given."""
        self.data = data
        self.environ = {f"HEADRACE_{name}": f"127.0.0.1:{free_port()}" for name in names}
        self.environ |= {"HEADRACE_DATA": str(data), "HEADRACE_SLOTS": "1", "HEADRACE_SPARK_MASTER": "local[1]"}
        self.lines: list[str] = []
        self.process: subprocess.Popen[str]

    @property
    def url(self) -> str:
        return f"http://{self.environ['HEADRACE_HTTP']}"

    def start(self) -> str:
        """Returns the line that says it is ready."""
        self.launch()
        return self.wait(lambda line: line.startswith("ready"))

    def launch(self) -> None:
        self.lines = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "headrace.cli.main", "up"],
            env={**os.environ, **self.environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def run(self) -> subprocess.CompletedProcess[str]:
        """For an `up` that ends by itself."""
        return subprocess.run(
            [sys.executable, "-m", "headrace.cli.main", "up"],
            env={**os.environ, **self.environ},
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
        )

    def wait(self, fits: Callable[[str], bool]) -> str:
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            if found := next(filter(fits, list(self.lines)), None):
                return found
            time.sleep(0.02)
        raise AssertionError("\n".join(self.lines))

    def below(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def pid(self, role: str) -> int:
        found: int = json.loads((self.data / "run.json").read_text())["roles"][role]
        return found

    def addresses(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.data / "run.json").read_text())["addresses"]
        return found

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(_PATIENCE_S)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as out:
            self.lines.extend(line.rstrip("\n") for line in out)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    made = Up(tmp_path / "data")
    yield made
    made.process.kill()
    made.process.wait()


def _none_left(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []


def _completed(url: str, task_id: str) -> bool:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        if get(f"{url}/tasks/{task_id}").json()["status"] == "completed":
            return True
        time.sleep(0.05)
    return False


def test_up_runs_a_task_stops_leaving_no_process_and_a_second_up_goes_on(up: Up) -> None:
    ready = up.start()
    assert up.url in ready
    assert up.environ["HEADRACE_STATS_HTTP"] in ready
    assert [line.split()[0] for line in up.lines[:1]] == ["kafka"]
    assert {"gateway", "storekeeper", "worker-1"} <= {line.split()[0] for line in up.lines}
    assert get(up.url).status_code == 200

    task = httpx.post(f"{up.url}/tasks", json={"name": "prime", "payload": {"upper_bound": 20}, "directory": "up"})
    task_id = task.json()["id"]
    assert _completed(up.url, task_id)

    processes = up.below()
    assert len(processes) >= 4
    assert up.end(signal.SIGINT) == 0
    assert up.lines[-1] == "stopped"
    _none_left(processes)
    assert not (up.data / "run.json").exists()

    up.start()
    assert get(f"{up.url}/tasks/{task_id}").json()["status"] == "completed"
    assert up.end(signal.SIGTERM) == 0


def test_a_role_that_is_killed_comes_back_and_a_killed_up_leaves_nothing(up: Up) -> None:
    up.start()
    first = up.pid("gateway")
    os.kill(first, signal.SIGKILL)
    up.wait(lambda line: line.startswith("gateway was killed by SIGKILL; starting it again in 1 s"))
    up.wait(lambda _: sum(line.startswith("gateway ready") for line in up.lines) == 2)
    assert up.pid("gateway") != first
    assert get(f"{up.url}/readyz").status_code == 200

    processes = up.below()
    assert up.end(signal.SIGKILL) == -signal.SIGKILL
    _none_left(processes)


def test_several_storekeepers_and_gateways_share_the_work_and_one_of_each_may_die(up: Up) -> None:
    counts = {"STOREKEEPERS": 2, "GATEWAYS": 2}
    up.environ |= {f"HEADRACE_{name}": str(count) for name, count in counts.items()}
    up.environ |= {f"HEADRACE_{name}": f"127.0.0.1:{free_ports(2)}" for name in ("HTTP", "STOREKEEPER_HTTP")}
    ready = up.start()
    host, port = up.environ["HEADRACE_HTTP"].split(":")
    both = [up.url, f"http://{host}:{int(port) + 1}"]
    assert all(url in ready for url in both)
    body = {"name": "prime", "payload": {"upper_bound": 20}, "directory": "up"}
    ids = [httpx.post(f"{url}/tasks", json=body).json()["id"] for url in both * 5]
    os.kill(up.pid("storekeeper-2"), signal.SIGKILL)
    os.kill(up.pid("gateway"), signal.SIGKILL)
    ids += [httpx.post(f"{both[1]}/tasks", json=body).json()["id"] for _ in range(10)]
    assert all(_completed(both[1], task_id) for task_id in ids)
    for role in ("storekeeper-2", "gateway"):
        up.wait(lambda _, of=role: sum(line.startswith(f"{of} ready") for line in up.lines) == 2)  # type: ignore[misc]
    assert up.end(signal.SIGINT) == 0


@pytest.mark.timeout(240)
def test_two_side_by_side_need_only_the_ports_that_they_are_given(tmp_path: Path) -> None:
    given = ("EMBEDDED_KAFKA", "EMBEDDED_DATABASE", "HTTP", "STATS_HTTP")
    both = [Up(tmp_path / name, given) for name in ("one", "two")]
    try:
        for each in both:
            each.launch()  # at the same moment: both find the default ports free
        for each in both:
            ready = each.wait(lambda line: line.startswith("ready"))
            assert each.environ["HEADRACE_HTTP"] in ready
            each.wait(lambda line: line.startswith("analytics ready"))
        moved = [line for each in both for line in each.lines if "moves to" in line]
        assert {line.split()[0] for line in moved} >= {"storekeeper", "analytics"}
        for line in moved:
            assert "is in use (HEADRACE_" in line
        roles = {role for each in both for role in each.addresses().items()}
        assert len({address for _, address in roles}) == 2 * 6
        for each in both:
            body = {"name": "prime", "payload": {"upper_bound": 20}, "directory": "up"}
            task_id = httpx.post(f"{each.url}/tasks", json=body).json()["id"]
            assert _completed(each.url, task_id)
            addresses = each.addresses()
            for part in ("storekeeper_http", "analytics_http"):
                assert get(f"http://{addresses[part]}/readyz").status_code == 200
        for each in both:
            assert each.end(signal.SIGINT) == 0
    finally:
        for each in both:
            each.process.kill()
            each.process.wait()


def test_a_port_in_use_is_reported_before_anything_starts(tmp_path: Path) -> None:
    made = Up(tmp_path / "data")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        made.environ["HEADRACE_HTTP"] = f"127.0.0.1:{s.getsockname()[1]}"
        done = made.run()
    assert done.returncode == 2
    assert "gateway cannot listen on" in done.stderr
    assert "HEADRACE_HTTP" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (made.data / "kafka").exists()


BROKEN_KINDS = {
    "import no_such_package_anywhere": (
        r"ModuleNotFoundError: No module named 'no_such_package_anywhere' \(\S+kinds\.py, line 2\)\. .*"
        r" -m pip install no_such_package_anywhere$"
    ),
    "def f(:": r"SyntaxError: invalid syntax \(\S+kinds\.py, line 2\)",
    "1 / 0": r"ZeroDivisionError: division by zero \(\S+kinds\.py, line 2\)",
    "import sys; sys.exit('no')": r"it calls sys\.exit \(SystemExit: no\) \(\S+kinds\.py, line 2\)",
    "raise ValueError('caf\\udce9')": r"ValueError: caf\\udce9 \(",
    "task(lambda: None)": r"@task <lambda> \(\S+kinds\.py:2\): a lambda cannot be a task kind",
    "import os; print('last words', flush=True); os._exit(7)": r"ended with exit code 7; .*ends with: last words$",
    "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)": r"was killed by SIGSEGV",
    "while True: pass": r"takes more than 3 s: raise HEADRACE_IMPORT_S",
}


@pytest.mark.parametrize("line", BROKEN_KINDS)
def test_kinds_that_cannot_be_imported_are_told_before_anything_starts(tmp_path: Path, line: str) -> None:
    kinds, made = tmp_path / "kinds.py", Up(tmp_path / "data")
    kinds.write_text(f"from headrace import task\n{line}\n")
    limit = "3" if line.startswith("while") else "60"
    made.environ |= {"HEADRACE_TASKS": str(kinds), "HEADRACE_IMPORT_S": limit}
    done = made.run()
    assert done.returncode == 2
    assert re.search(BROKEN_KINDS[line], done.stderr.strip()), done.stderr
    assert "Traceback" not in done.stderr
    assert [p.name for p in made.data.rglob("*.log")] == ["kinds.log"]
