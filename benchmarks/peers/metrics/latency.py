"""Rows D, E and P: how long a lone task takes, and in which order many start."""

import statistics
import time

from ..speed import NOMINAL
from ..system import System
from .throughput import lines

LONE = 200
_ORDERED, _ORDERED_S = 200, 0.010
_BEHIND, _HIGH, _PRIORITY_S = 1000, 20, 0.020
_QUIET_S = 0.5  # what earlier rows left behind ends


def latency(system: System) -> dict[str, float | str]:
    """Milliseconds from the submission to the known end, one task after another."""
    time.sleep(_QUIET_S)
    took_ms = []
    for i in range(LONE):
        begun = time.monotonic()
        system.wait(system.submit("noop", i), 30)
        took_ms.append((time.monotonic() - begun) * 1000)
    return {"D_p50_ms": statistics.median(took_ms), "D_p99_ms": statistics.quantiles(took_ms, n=100)[98]}


def order(system: System) -> dict[str, float | str]:
    """How far from its place in the submissions a task starts, and Kendall's tau of both orders."""
    file = system.bench.folder / "order"
    file.touch()
    calls = [(i, int(NOMINAL * _ORDERED_S), str(file)) for i in range(_ORDERED)]
    system.wait_all(system.submit_many("stamp", calls), 120)
    started = [int(i) for i, _ in sorted(lines(file), key=lambda line: int(line[1]))]
    return {
        "E_displacement": max(abs(place - i) for place, i in enumerate(started)),
        "E_kendall_tau": kendall_tau(started),
    }


def kendall_tau(places: list[int]) -> float:
    """1 for a sorted list, -1 for one in reverse."""
    n = len(places)
    swapped = sum(places[a] > places[b] for a in range(n) for b in range(a + 1, n))
    return 1 - 4 * swapped / (n * (n - 1))


def priority(system: System) -> dict[str, float | str]:
    """Seconds until 20 tasks of high priority have ended, behind 1,000 others. Leaves those in the queue."""
    iterations = int(NOMINAL * _PRIORITY_S)
    system.submit_many("burn", [(iterations,)] * _BEHIND, priority="low")
    begun = time.monotonic()
    system.wait_all([system.submit("burn", iterations, priority="high") for _ in range(_HIGH)], 60)
    return {"P_high_s": time.monotonic() - begun}
