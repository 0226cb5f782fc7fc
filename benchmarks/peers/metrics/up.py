"""Row I: how long `make up` takes where everything is installed, and what it costs while nobody submits a task.

It starts with an empty data directory. Addresses that are in use move by themselves.
"""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from infra.local.process import last_line, start_tied

from ..bench import ROOT, Bench
from ..processes import cpu_s, end, tree
from ..speed import NOMINAL, cpu_speed

_START_S, _SETTLE_S, _IDLE_S = 240.0, 30.0, 20.0
_STATISTICS = ("analytics", "database")


def measure(bench: Bench) -> dict[str, float | str]:
    """Seconds until it is ready; percent of a core that it uses idle, at the nominal speed, in all and by role."""
    data, log = bench.folder / "data", bench.folder / "up.log"
    begun = time.monotonic()
    up = start_tied(["sh", "-c", _command()], log, {**bench.environ(), "HEADRACE_DATA": str(data)})
    try:
        _wait_ready(up, log)
        start_s = time.monotonic() - begun
        _wait_statistics(data)
        time.sleep(_SETTLE_S)  # the statistics' first batches, and Java's compiler
        used = _idle_percent(_processes(up.pid, data))
    finally:
        end([up], tree(up.pid))
    bare = sum(percent for role, percent in used.items() if role not in _STATISTICS)
    by_role = {f"I_idle_{role}_percent": percent for role, percent in used.items()}
    return {"I_start_s": start_s, "I_idle_percent": sum(used.values()), "I_idle_bare_percent": bare, **by_role}


def _command() -> str:
    """What `make up` does, as one process in the end, so that it ends with this one."""
    root, python = shlex.quote(str(ROOT)), shlex.quote(sys.executable)
    return f"make -C {root} setup && exec {python} -m headrace.cli.main up"


def _wait_ready(up: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while "\nready in " not in f"\n{log.read_text()}":
        if up.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"`make up` is not ready: {last_line(log)}")
        time.sleep(0.02)


def _wait_statistics(data: Path) -> None:
    """Returns when the statistics job runs; RuntimeError when it does not start."""
    deadline = time.monotonic() + _START_S
    while _STATISTICS[0] not in _roles(data):
        if time.monotonic() > deadline:
            raise RuntimeError("the statistics do not start: what `make up` printed says why")
        time.sleep(0.1)


def _roles(data: Path) -> dict[str, int]:
    """The process of each role, as `up` has written them."""
    pids: dict[str, int] = json.loads((data / "run.json").read_text())["roles"]
    return pids


def _processes(up: int, data: Path) -> dict[str, list[psutil.Process]]:
    """The processes of each role, and of `up` itself."""
    return {"up": [psutil.Process(up)]} | {role: tree(pid) for role, pid in _roles(data).items()}


def _idle_percent(processes: Mapping[str, list[psutil.Process]]) -> dict[str, float]:
    before, speed = cpu_s(processes), cpu_speed()
    time.sleep(_IDLE_S)
    after, scale = cpu_s(processes), (speed + cpu_speed()) / 2 / NOMINAL
    return {role: (after[role] - before[role]) / _IDLE_S * 100 * scale for role in before}
