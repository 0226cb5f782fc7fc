"""The commands that run one role in this process, or all roles (`up`).

`headrace` imports no role: each is named here with its module, and loaded when it runs. UsageError names the extra to
install when a role's packages are missing.
"""

import logging
import sys

import click

from headrace.cli.options import with_settings
from headrace.installation import check_extras, load_part
from headrace.process.malloc import limit_malloc_arenas
from headrace.settings import Settings

# Role -> its module, as a checkout names it, and the extras that it needs. `up` also runs without the statistics.
ROLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "up": ("infra.local.up", ("gateway", "worker")),
    "gateway": ("gateway.main", ("gateway",)),
    "worker": ("agents.worker.main", ("worker",)),
    "storekeeper": ("agents.storekeeper.main", ("worker",)),
    "analytics": ("spark_analytics.main", ("analytics",)),
    "chaos": ("infra.chaos.main", ("gateway", "worker")),
}


def run_role(name: str, settings: Settings, **options: object) -> int:
    """Runs the role until it ends and returns its exit code."""
    module, extras = ROLES[name]
    check_extras(f"headrace {name}", extras, "all" if len(extras) > 1 else "")
    limit_malloc_arenas()
    return int(load_part(module).main(settings, **options))


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def _role(name: str, text: str) -> click.Command:
    @click.command(name, help=text)
    @with_settings()
    def command(settings: Settings) -> int:
        _log_to_stderr()
        return run_role(name, settings)

    return command


@click.command("up", help="Run everything on this machine until Ctrl-C: broker, database, topics and all roles.")
@with_settings(pass_given=True)
def up(settings: Settings, given: frozenset[str]) -> int:
    _log_to_stderr()
    return run_role("up", settings, given=given)


gateway = _role("gateway", "The HTTP interface: submissions, status, events, results and the web page.")
worker = _role("worker", "A worker node: claims tasks and runs them in its process pool.")
storekeeper = _role("storekeeper", "The storekeeper: writes results to disk and decides each task's terminal state.")
analytics = _role("analytics", "The statistics: a Spark job that counts the lifecycle topics into MySQL.")
