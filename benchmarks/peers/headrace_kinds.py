"""The bodies of `work` as Headrace's task kinds."""

from benchmarks.peers import work
from headrace import task


@task
def noop(i: int) -> int:
    return work.noop(i)


@task
def burn(iterations: int) -> int:
    return work.burn(iterations)


@task
def stamp(i: int, iterations: int, path: str) -> int:
    return work.stamp(i, iterations, path)


@task
def timed(i: int, iterations: int, path: str) -> int:
    return work.timed(i, iterations, path)


@task
def kill_once(path: str) -> str:
    return work.kill_once(path)


@task
def poison(path: str) -> str:
    return work.poison(path)


@task
def mark_sleep(i: int, seconds: float, path: str) -> int:
    return work.mark_sleep(i, seconds, path)
