"""Rows A, B, C and K: how many tasks a second, and how much of two cores they get."""

import time
from collections.abc import Iterator
from pathlib import Path

from ..speed import NOMINAL, bare_speed
from ..system import System

SLOTS = 2
NOOPS = 2000
_LIGHT, _LIGHT_S, _HEAVY, _HEAVY_S = 600, 0.005, 40, 0.5
_BUSY = (("heavy", 20, 0.5), ("light", 400, 0.005))


def noops(system: System) -> dict[str, float | str]:
    """Submissions a second in one batch call, and tasks a second until the client knows every end."""
    before, begun = bare_speed(), time.monotonic()
    handles = system.submit_many("noop", [(i,) for i in range(NOOPS)])
    submitted = time.monotonic()
    system.wait_all(handles)
    took_s = time.monotonic() - begun
    speed = (before + bare_speed()) / 2
    return {
        "A_submitted_per_s": NOOPS / (submitted - begun),
        "A_tasks_per_s": NOOPS / took_s,
        "A_nominal_per_s": NOOPS / took_s * NOMINAL / speed,
    }


def light(system: System) -> dict[str, float | str]:
    """Tasks of 5 ms a second, and that against two bare processes just before and after."""
    rate, of_raw = _burn(system, _LIGHT, _LIGHT_S)
    return {"B_tasks_per_s": rate, "B_of_raw": of_raw}


def heavy(system: System) -> dict[str, float | str]:
    """Tasks of 0.5 s, against two bare processes just before and after."""
    return {"C_of_raw": _burn(system, _HEAVY, _HEAVY_S)[1]}


def _burn(system: System, count: int, cpu_s: float) -> tuple[float, float]:
    """(tasks a second, iterations a second against those of two bare processes)."""
    iterations = int(NOMINAL * cpu_s)
    before, begun = bare_speed(1.0), time.monotonic()
    system.wait_all(system.submit_many("burn", [(iterations,)] * count))
    took_s = time.monotonic() - begun
    speed = (before + bare_speed(1.0)) / 2
    return count / took_s, count * iterations / (SLOTS * speed) / took_s


def busy_share(system: System) -> dict[str, float | str]:
    """Time inside the tasks over that of two slots until the last end is known; a faster CPU does not change it."""
    figures: dict[str, float | str] = {}
    for name, count, cpu_s in _BUSY:
        file = system.bench.folder / f"busy-{name}"
        file.touch()
        calls = [(i, int(NOMINAL * cpu_s), str(file)) for i in range(count)]
        begun = time.monotonic()
        system.wait_all(system.submit_many("timed", calls))
        took_s = time.monotonic() - begun
        inside_s = sum(int(end) - int(start) for _, start, end in lines(file)) / 1e9
        figures[f"K_{name}_busy"] = inside_s / (SLOTS * took_s)
    return figures


def lines(file: Path) -> Iterator[list[str]]:
    """The words of each line that the tasks have written so far."""
    if file.exists():
        yield from (line.split() for line in file.read_text().splitlines())
