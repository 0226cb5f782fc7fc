"""Processes of a system: their tree, end, CPU time and memory."""

import time
from collections.abc import Iterable, Mapping, Sequence
from subprocess import Popen

import psutil

_GRACE_S = 8.0


def tree(pid: int) -> list[psutil.Process]:
    """A process and all its descendants; empty when it has ended."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def existing(pids: Iterable[int]) -> list[psutil.Process]:
    return [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]


def kill(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL to each in this order; returns when they have ended."""
    some = list(processes)
    for process in some:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass  # ended meanwhile
    psutil.wait_procs(some, timeout=5)


def end(roots: Sequence[Popen[bytes]], members: Sequence[psutil.Process]) -> None:
    """SIGTERM to the roots; SIGKILL to all members that still run after `_GRACE_S`."""
    for root in roots:
        root.terminate()
    deadline = time.monotonic() + _GRACE_S
    _, alive = psutil.wait_procs(members, timeout=max(0.0, deadline - time.monotonic()))
    kill(alive)
    for root in roots:
        root.wait()


def cpu_s(roles: Mapping[str, Iterable[psutil.Process]]) -> dict[str, float]:
    """Seconds of CPU that each role has used so far; ended children count through their parents."""
    return {role: sum(map(_own_cpu_s, some)) for role, some in roles.items()}


def _own_cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def memory_mib(processes: Iterable[psutil.Process]) -> tuple[float, float, int]:
    """(RSS, PSS, number) of the processes that still run."""
    rss = pss = number = 0
    for process in processes:
        try:
            memory = process.memory_full_info()
        except psutil.Error:
            continue  # ended, or has no memory any more
        rss, pss, number = rss + memory.rss, pss + memory.pss, number + 1
    return rss / 2**20, pss / 2**20, number
