"""How fast this machine is now: a shared one changes by a factor of two within minutes, so figures are set against it.

`python -m benchmarks.peers.speed ITERATIONS` prints what each of two bare processes reaches side by side, in iterations
of `work.burn` a second: the raw limit of two cores. It runs as a process of its own, as its forks must be small.
"""

import os
import subprocess
import sys
import time

from . import work
from .bench import ROOT

NOMINAL = 10_000_000.0  # iterations a second of CPU time; a task of 5 ms has 50,000
_PROBE = 400_000


def bare_speed(seconds: float = 0.3) -> float:
    """Iterations a second of each of two bare processes that run at the same time for about `seconds`."""
    command = [sys.executable, "-m", "benchmarks.peers.speed", str(int(NOMINAL * seconds))]
    return float(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


def cpu_speed() -> float:
    """Iterations in a second of CPU time of this process: what a CPU time is scaled by."""
    begun = time.process_time()
    work.burn(_PROBE)
    return _PROBE / (time.process_time() - begun)


def main() -> None:
    iterations = int(sys.argv[1])
    begun = time.monotonic()
    for _ in range(2):
        if os.fork() == 0:
            work.burn(iterations)
            os._exit(0)
    os.wait()
    os.wait()
    print(iterations / (time.monotonic() - begun))


if __name__ == "__main__":
    main()
