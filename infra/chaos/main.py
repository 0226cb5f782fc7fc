"""`headrace chaos`: random faults against a running `headrace up`, then the conservation check.

Exit code 0 when nothing was lost, published twice, run again without a crash or dead without need, else 1.
"""

import logging
import random
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from headrace.client import Client
from headrace.errors import UsageError
from headrace.kinds import example_files
from headrace.settings import ADDRESSES, Settings

from .installation import Installation, alive
from .schedule import run_schedule
from .workloads import NEEDED_KINDS, mixture

TASKS_A_MINUTE = 700
HEAVY_SHARE = 0.05  # share of tasks of seconds: keeps a third of six slots busy, so that killed nodes lose tasks


def main(settings: Settings, minutes: float = 5.0, seed: int | None = None, count: int | None = None) -> int:
    """Runs for `minutes` with `count` tasks; `settings.data` is the directory of the running `up`.

    Returns the exit code. UsageError when no `up` runs there, or when it lacks the kinds of the workload; Unreachable
    when its gateway does not answer.
    """
    seed = secrets.randbelow(2**31) if seed is None else seed
    count = count or int(minutes * TASKS_A_MINUTE)
    running_roles(settings.data)
    logging.getLogger("headrace.process.throttled_log").setLevel(logging.ERROR)  # outages of Kafka are expected
    own = _settings_of_up(settings)
    check_kinds(f"http://{own.http}")
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
        "good: nothing was lost, and nothing died without need"
        if run.verdict.good
        else "NOT GOOD: see the ids above; the same seed draws the same faults again"
    )
    return 0 if run.verdict.good else 1


def _settings_of_up(settings: Settings) -> Settings:
    """The settings with the addresses at which the parts of the running `up` listen."""
    listening = {name: text for name, text in _running(settings.data).get("addresses", {}).items() if name in ADDRESSES}
    found = replace(settings, **listening)
    kafka = found.kafka or found.embedded_kafka
    return replace(found, kafka=kafka, data=found.data.absolute(), results=str(found.results_root.absolute()))


def check_kinds(url: str) -> None:
    """UsageError when a node of the installation lacks a kind of the workload: its tasks would only die."""
    with Client(url) as client:
        items = client.request("GET", "/kinds")["items"]
    parameters = {k["name"]: k["schema"].get("properties", {}) for k in items if k.get("live")}
    missing = [n for n, wanted in NEEDED_KINDS.items() if not set(wanted) <= set(parameters.get(n, ()))]
    if missing:
        files = ",".join(file for file in example_files() if Path(file).stem in NEEDED_KINDS)
        raise UsageError(
            f"chaos submits the example kinds {' and '.join(NEEDED_KINDS)}, and this installation does not run the "
            f"example {' and '.join(missing)}: start `headrace up` with HEADRACE_TASKS={files} (and your own kinds, if "
            "you like), or without HEADRACE_TASKS"
        )


def say(line: str) -> None:
    print(line, flush=True)  # flush: a run of half an hour should show its progress in a file too


def running_roles(data: Path) -> dict[str, int]:
    """Process ids by role from `<data>/run.json`; UsageError when no `up` runs there."""
    return {str(k): int(v) for k, v in _running(data)["roles"].items()}


def _running(data: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = orjson.loads((data / "run.json").read_bytes())
        if alive(int(found["pid"])) and found["roles"]:
            return found
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        pass
    raise UsageError(f"no `headrace up` runs in {data}: start one, or give its directory with --data")
