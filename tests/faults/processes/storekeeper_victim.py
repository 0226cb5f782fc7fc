"""A storekeeper that kills itself with SIGKILL after the step its argument names: file, event, index or commit."""

import logging
import os
import signal
import sys

from agents.storekeeper.main import run
from headrace.settings import Settings


def die_after(step: str) -> None:
    if step == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    sys.exit(run(Settings.load(), die_after))
