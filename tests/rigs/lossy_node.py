"""A worker node that drops the first job that its intake hands over. Its conservation check looks often. Run as a
process by the test of that check.
"""

import sys

from agents.execution.job import Jobs
from agents.worker import conservation
from agents.worker.agent import Worker
from headrace.cli.main import main

LIMIT_S = 2.0


def make_lossy() -> None:
    hand_over = Worker.hand_over
    dropped: list[Jobs] = []

    def lossy(worker: Worker, jobs: Jobs) -> None:
        if dropped:
            hand_over(worker, jobs)
        else:
            dropped.append(jobs)

    Worker.hand_over = lossy  # type: ignore[method-assign]
    conservation._LOOK_EVERY_S = 0.2
    conservation.Conservation.__init__.__kwdefaults__["limit_s"] = LIMIT_S


if __name__ == "__main__":
    make_lossy()
    sys.exit(main(["worker"]))
