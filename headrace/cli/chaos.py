"""`headrace chaos`: random faults against a running `up`, then the check that nothing was lost."""

import click

from headrace.cli.options import with_settings
from headrace.cli.roles import run_role
from headrace.settings import Settings


@click.command(
    "chaos",
    help="Random faults against a running `up`, then a check that nothing was lost or repeated.",
)
@click.option(
    "--minutes", type=click.FloatRange(0.1, 24 * 60), default=5.0, show_default=True, help="Length of the run."
)
@click.option("--seed", type=int, help="Seed of an earlier run, for the same faults; default: a new one, printed.")
@click.option("--count", type=click.IntRange(1), help="Tasks to submit meanwhile; default: 700 a minute.")
@with_settings(("data", "http", "storekeeper_http", "topic_prefix", "kafka_security", "results", "lease_s", "drain_s"))
def chaos(settings: Settings, minutes: float, seed: int | None, count: int | None) -> int:
    return run_role("chaos", settings, minutes=minutes, seed=seed, count=count)
