"""A worker or storekeeper (first argument) whose working thread stands still while a file (second argument) exists."""

import logging
import sys
import time
from pathlib import Path

from headrace.settings import Settings


def main() -> int:
    role, file = sys.argv[1], Path(sys.argv[2])

    def stand_still(place: str) -> None:
        while place in ("before claim", "file") and file.exists():  # the intake's thread, the storekeeper's
            time.sleep(0.02)

    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    if role == "worker":
        from agents.worker.main import main as run

        return run(Settings.load(), failpoint=stand_still)
    from agents.storekeeper.main import run as run_storekeeper

    return run_storekeeper(Settings.load(), stand_still)


if __name__ == "__main__":
    sys.exit(main())
