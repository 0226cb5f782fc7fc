"""The commands that run one role in this process, or all roles (`up`).

A role is found by its name in the entry point group `headrace.roles`, because `headrace` imports no role. UsageError
when a role is not installed.
"""

import logging
import sys
from collections.abc import Callable
from importlib.metadata import entry_points

import click

from headrace.cli.options import with_settings
from headrace.errors import UsageError
from headrace.process.malloc import limit_malloc_arenas
from headrace.settings import Settings


def run_role(name: str, settings: Settings, **options: object) -> int:
    """Runs the role until it ends and returns its exit code."""
    found = entry_points(group="headrace.roles", name=name)
    if not found:
        raise UsageError(
            f"the role {name!r} is not part of this installation: install the whole package (pip install headrace)"
        )
    limit_malloc_arenas()
    main: Callable[..., int] = next(iter(found)).load()
    return main(settings, **options)


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def _role(name: str, text: str) -> click.Command:
    @click.command(name, help=text)
    @with_settings()
    def command(settings: Settings) -> int:
        _log_to_stderr()
        return run_role(name, settings)

    return command


up = _role("up", "Run everything on this machine until Ctrl-C: broker, database, topics and all roles.")
gateway = _role("gateway", "The HTTP interface: submissions, status, events, results and the web page.")
worker = _role("worker", "A worker node: claims tasks and runs them in its process pool.")
storekeeper = _role("storekeeper", "The storekeeper: writes results to disk and decides each task's terminal state.")
analytics = _role("analytics", "The statistics: a Spark job that counts the lifecycle topics into MySQL.")
