"""Leaves a mess behind, and ends in some way. Loaded in children alone, as a file."""

import os
import signal
import sys
import time

from headrace import Context, task
from tests.faults.fuzz import mess
from tests.faults.fuzz.harm import HARM


@task(timeout_s=60)
def makes_a_mess(context: Context, names: list[str], then: str) -> str:
    mess.scratch = context.scratch
    for name in names:
        (mess.MESS.get(name) or HARM[name])()
    _end(then)
    return "a mess"


def _end(how: str) -> None:
    if how == "raise":
        raise ValueError("after a mess")
    if how == "exit":
        os._exit(4)
    if how == "leave":
        sys.exit(3)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hang":
        while True:
            time.sleep(60)
