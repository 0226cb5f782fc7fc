"""`headrace chaos`: random faults against a running `up`, then the conservation check. Anyone may try it at home."""

import click

from headrace.cli.options import with_settings
from headrace.cli.roles import run_role
from headrace.settings import Settings


@click.command("chaos", help="Random faults against a running `up`, then a check that nothing was lost or run in vain.")
@click.option("--minutes", type=click.FloatRange(0.1, 24 * 60), default=5.0, show_default=True, help="How long.")
@click.option("--seed", type=int, help="Draws the same faults as that run did; without it, a new one is printed.")
@click.option("--count", type=click.IntRange(1), help="Tasks to submit meanwhile; default 700 a minute.")
@with_settings(("data", "http", "storekeeper_http", "topic_prefix", "kafka_security", "results", "lease_s", "drain_s"))
def chaos(settings: Settings, minutes: float, seed: int | None, count: int | None) -> int:
    return run_role("chaos", settings, minutes=minutes, seed=seed, count=count)
