"""`headrace chaos`: random faults against a running `headrace up`, then the conservation check.

Exit code 0 when nothing was lost, published twice or run again without a crash, else 1.
"""

import logging
import random
import secrets
from dataclasses import replace
from pathlib import Path

import orjson

from headrace.errors import UsageError
from headrace.settings import Settings

from .installation import Installation
from .schedule import run_schedule
from .workloads import mixture

TASKS_A_MINUTE = 700
HEAVY_SHARE = 0.05  # share of tasks of seconds: keeps a third of six slots busy, so that killed nodes lose tasks


def main(settings: Settings, minutes: float = 5.0, seed: int | None = None, count: int | None = None) -> int:
    """Runs for `minutes` with `count` tasks; `settings.data` is the directory of the running `up`.

    Returns the exit code. UsageError when no `up` runs there.
    """
    seed = secrets.randbelow(2**31) if seed is None else seed
    count = count or int(minutes * TASKS_A_MINUTE)
    running_roles(settings.data)
    logging.getLogger("headrace.process.throttled_log").setLevel(logging.ERROR)  # outages of Kafka are expected
    kafka = settings.kafka or settings.embedded_kafka
    own = replace(settings, kafka=kafka, data=settings.data.absolute(), results=str(settings.results_root.absolute()))
    installation = Installation(own, lambda: running_roles(settings.data))
    print(
        f"seed {seed}: {count} tasks on {len(installation.nodes())} nodes, with random faults for {minutes:g} minutes"
    )
    try:
        run = run_schedule(installation, list(mixture(count, random.Random(seed), HEAVY_SHARE)), seed, minutes, say)
    finally:
        installation.close()
    print(f"{run.report()}\n{run.submitted.refused} submissions were refused and repeated; seed {seed}")
    print(
        "good: nothing was lost"
        if run.verdict.good
        else "NOT GOOD: see the ids above; the same seed draws the same faults again"
    )
    return 0 if run.verdict.good else 1


def say(line: str) -> None:
    print(line, flush=True)  # flush: a run of half an hour should show its progress in a file too


def running_roles(data: Path) -> dict[str, int]:
    """Process ids by role from `<data>/run.json`; UsageError when no `up` runs there."""
    try:
        found = orjson.loads((data / "run.json").read_bytes())
        return {str(k): int(v) for k, v in found["roles"].items()}
    except (OSError, orjson.JSONDecodeError, KeyError):
        raise UsageError(f"no `headrace up` runs in {data}: start one, or give its directory with --data") from None
