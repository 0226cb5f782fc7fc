"""Task kinds that report progress at the full rate, for an outage of any length. Only children load them."""

import os
import time
from pathlib import Path

from headrace import Context, task

_REPORT_S = 0.05  # twice as often as the node sends reports


def _report_until(flag: str, context: Context) -> None:
    count = 0
    while not Path(flag).exists():
        count += 1
        context.progress(count % 100 / 100, f"report {count}")
        time.sleep(_REPORT_S)


@task(timeout_s=7200)
def reports_until(flag: str, context: Context) -> str:
    """Ends when the file `flag` exists."""
    _report_until(flag, context)
    return "done"


@task(timeout_s=20, max_attempts=1)
def reports_too_long(pid: str, context: Context) -> None:
    """Leaves its pid in a file, and is killed by its time limit."""
    Path(pid).write_text(str(os.getpid()))
    _report_until("/no/such/file", context)
