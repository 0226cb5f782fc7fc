"""A task that fails on demand, to show how Headrace handles failures.

    {"name": "fragile", "payload": {"how": "kill", "attempts": 2}, "directory": "demo"}

Its process is killed in attempts 1 and 2; attempt 3 succeeds. `headrace why <id>` explains what happened.
"""

import os
import signal
import time
from typing import Annotated, Any, Literal

from pydantic import Field

from headrace import Context, task

How = Literal["raise", "kill", "exit", "hang"]


@task(timeout_s=120, max_attempts=3)
def fragile(
    context: Context,
    how: Annotated[
        How, Field(description="raise an error, kill its process, exit midway, or hang until the time limit")
    ] = "kill",
    attempts: Annotated[int, Field(ge=0, le=100, description="number of attempts that fail before one succeeds")] = 1,
    seconds: Annotated[float, Field(ge=0, le=3600, description="seconds of work before it fails or ends")] = 0.0,
) -> dict[str, Any]:
    """Fails in its first attempts, then succeeds and returns how many failed before."""
    _work(context, seconds)
    if context.attempt <= attempts:
        _fail(how, context.attempt)
    return {"attempt": context.attempt, "went_wrong_before": context.attempt - 1}


def _work(context: Context, seconds: float) -> None:
    """Sleeps in ten steps and reports progress at each."""
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        context.progress(passed / seconds, f"{passed:.1f} of {seconds:g} s")
        time.sleep(min(seconds / 10, seconds - passed))
    context.progress(1.0, "worked")


def _fail(how: How, attempt: int) -> None:
    print(f"attempt {attempt} goes wrong: {how}", flush=True)
    if how == "raise":
        raise RuntimeError(f"attempt {attempt} was asked to raise this error")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(3)
    while True:  # hang: only the time limit ends it
        time.sleep(60)
