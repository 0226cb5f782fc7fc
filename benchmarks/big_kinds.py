"""Task kinds with results of any size, to measure the cost of a big result."""

import os
from pathlib import Path

from headrace import Context, task

_MIB = 1024 * 1024


@task(timeout_s=3600)
def big_file(mib: int, context: Context) -> Path:
    """A file of `mib` MiB of random bytes."""
    path = context.scratch / "big.bin"
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(_MIB))
    return path


@task
def small(number: int) -> int:
    """Returns its payload."""
    return number
