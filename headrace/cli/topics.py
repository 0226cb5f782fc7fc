"""`headrace topics apply|diff|acls`: make a cluster match `topics.yaml`, or show where it does not, or who may do what.

`diff` exits with 1 when there is a difference; `apply` with 1 when it refused one.
"""

import shlex
from collections.abc import Iterable

import click
import orjson

from headrace.cli.options import KAFKA, with_a_kafka, with_settings
from headrace.errors import UsageError
from headrace.kafka.acls import ROLES, commands, rules
from headrace.kafka.topics import Change, apply_topics, diff_topics
from headrace.settings import Settings

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
    from headrace.kafka.client import Kafka

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
    from headrace.kafka.client import Kafka

    changes = diff_topics(Kafka(with_a_kafka(settings), "headrace-topics").admin(), settings.topic_prefix, partitions)
    _tell(changes, machine)
    return int(bool(changes))


@topics.command("acls", help="What each role must be allowed to do on Kafka, and no more, as lines of kafka-acls.")
@click.option("--role", "roles", multiple=True, type=click.Choice(ROLES), help="Only this role's; may be repeated.")
@click.option(
    "--principal",
    "principals",
    multiple=True,
    metavar="ROLE=PRINCIPAL",
    help="Who a role is, such as worker=User:CN=worker; default: User:headrace-<role>.",
)
@click.option(
    "--command-config",
    metavar="FILE",
    default="admin.properties",
    show_default=True,
    help="What kafka-acls connects with: the properties of a client that may alter ACLs.",
)
@_options[1]
@with_settings(KAFKA)
def acls(
    settings: Settings, roles: tuple[str, ...], principals: tuple[str, ...], command_config: str, machine: bool
) -> int:
    who = _principals(roles or ROLES, principals)
    if machine:
        for r in rules():
            if r.role in who:
                row = {
                    "role": r.role,
                    "principal": who[r.role],
                    "operations": r.operations,
                    "resource": r.kind,
                    "name": settings.topic_prefix + r.name,
                    "prefixed": r.prefixed,
                }
                click.echo(orjson.dumps(row).decode())
        return 0
    server, config = shlex.quote(with_a_kafka(settings).kafka), shlex.quote(command_config)
    for line in commands(
        settings.topic_prefix, who, f"kafka-acls.sh --bootstrap-server {server} --command-config {config}"
    ):
        click.echo(line)
    return 0


def _principals(roles: Iterable[str], given: Iterable[str]) -> dict[str, str]:
    who = {role: f"User:headrace-{role}" for role in roles}
    for text in given:
        role, _, principal = text.partition("=")
        if role not in ROLES or ":" not in principal:
            raise UsageError(f"--principal {text}: give ROLE=TYPE:NAME, such as worker=User:alice")
        if role in who:
            who[role] = principal
    return who


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
