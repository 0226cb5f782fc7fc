"""The bodies of the tasks: the same plain functions for every system, with the standard library alone."""

import inspect
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path


def _append(path: str, line: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def noop(i: int) -> int:
    return i


def burn(iterations: int) -> int:
    """Uses the CPU for so many iterations."""
    x = 1
    for _ in range(iterations):
        x = (x * 1103515245 + 12345) & 0x7FFFFFFF
    return x


def stamp(i: int, iterations: int, path: str) -> int:
    """Appends when it started (CLOCK_MONOTONIC is one clock for the whole machine), then uses the CPU."""
    _append(path, f"{i} {time.monotonic_ns()}\n")
    return burn(iterations)


def timed(i: int, iterations: int, path: str) -> int:
    """Uses the CPU, then appends when it started and ended."""
    begun = time.monotonic_ns()
    burn(iterations)
    _append(path, f"{i} {begun} {time.monotonic_ns()}\n")
    return i


def kill_once(path: str) -> str:
    """The first attempt kills its own process; the second ends."""
    first = not Path(path).exists()
    _append(path, f"attempt {os.getpid()} {time.monotonic_ns()}\n")
    if first:
        _kill_itself()
    return "ok"


def poison(path: str) -> str:
    """Every attempt kills its own process."""
    _append(path, f"attempt {os.getpid()} {time.monotonic_ns()}\n")
    _kill_itself()
    return "never"


def mark_sleep(i: int, seconds: float, path: str) -> int:
    """Appends its start and its end, and sleeps between them."""
    _append(path, f"start {i} {os.getpid()} {time.monotonic_ns()}\n")
    time.sleep(seconds)
    _append(path, f"end {i} {os.getpid()} {time.monotonic_ns()}\n")
    return i


def _kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # the signal may come a moment later


FUNCTIONS: Mapping[str, Callable[..., object]] = {
    f.__name__: f for f in (noop, burn, stamp, timed, kill_once, poison, mark_sleep)
}
PARAMETERS: Mapping[str, tuple[str, ...]] = {n: tuple(inspect.signature(f).parameters) for n, f in FUNCTIONS.items()}
