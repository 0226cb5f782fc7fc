"""`headrace topics apply|diff`: make a cluster match `topics.yaml`, or show where it does not.

`diff` exits with 1 when there is a difference; `apply` with 1 when it refused one.
"""

import click
import orjson

from headrace.cli.options import KAFKA, with_a_kafka, with_settings
from headrace.settings import Settings
from headrace.topics import Change, apply_topics, diff_topics

_options = (
    click.option("--partitions", type=click.IntRange(1), help="Of every keyed topic; default: what topics.yaml says."),
    click.option("--json", "machine", is_flag=True, help="Print JSON, for machines."),
)


@click.group("topics", help="The topics of this installation, as topics.yaml describes them.")
def topics() -> None: ...


@topics.command("apply", help="Create and alter topics until the cluster matches; never shrinks one.")
@_options[0]
@click.option("--replication", type=int, default=-1, help="Replication factor of new topics; default: the broker's.")
@_options[1]
@with_settings(KAFKA)
def apply(settings: Settings, partitions: int | None, replication: int, machine: bool) -> int:
    from headrace.kafka import Kafka

    changes = apply_topics(
        Kafka(with_a_kafka(settings), "headrace-topics").admin(), settings.topic_prefix, partitions, replication
    )
    _tell(changes, machine)
    return int(any(c.refused for c in changes))


@topics.command("diff", help="What `apply` would do, and what it would refuse.")
@_options[0]
@_options[1]
@with_settings(KAFKA)
def diff(settings: Settings, partitions: int | None, machine: bool) -> int:
    from headrace.kafka import Kafka

    changes = diff_topics(Kafka(with_a_kafka(settings), "headrace-topics").admin(), settings.topic_prefix, partitions)
    _tell(changes, machine)
    return int(bool(changes))


def _tell(changes: list[Change], machine: bool) -> None:
    if machine:
        for c in changes:
            row = {"topic": c.topic, "what": c.what, "fix": c.fix, "refused": c.refused}
            click.echo(orjson.dumps(row).decode())
        return
    for c in changes:
        click.echo(f"{'! ' if c.refused else '  '}{c.topic:22} {c.what}: {c.fix}")
    if not changes:
        click.echo("the cluster matches topics.yaml")
