"""`headrace topics apply|diff|grow|acls`: make a cluster match `topics.yaml`, show the differences, add partitions
while tasks run, or print access rights.

`diff` exits with 1 when there is a difference, `apply` when it refused a change. Unreachable when Kafka does not
answer.
"""

import shlex
from collections.abc import Iterable

import click
import orjson

from headrace.cli.options import KAFKA, with_local_kafka, with_settings
from headrace.errors import UsageError
from headrace.kafka.acls import ROLES, acl_commands, acl_rules
from headrace.kafka.topic_growth import Growth, grow_topics, plan_growth
from headrace.kafka.topics import Change, apply_topics, diff_topics
from headrace.settings import Settings

_options = (
    click.option("--partitions", type=click.IntRange(1), help="Of every keyed topic; default: as in topics.yaml."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
)


@click.group("topics", help="Create, compare and protect the topics that topics.yaml describes.")
def topics() -> None: ...


@topics.command("apply", help="Create and alter topics until the cluster matches. Removes no topic and no partition.")
@_options[0]
@click.option("--replication", type=int, default=-1, help="Replication factor of new topics; default: the broker's.")
@_options[1]
@with_settings(KAFKA)
def apply(settings: Settings, partitions: int | None, replication: int, as_json: bool) -> int:
    from headrace.cli.kafka import reached_kafka

    with reached_kafka(settings, "headrace-topics") as kafka:
        changes = apply_topics(kafka.admin(), settings.topic_prefix, partitions, replication)
    _print_changes(changes, as_json)
    return int(any(c.refused for c in changes))


@topics.command("diff", help="Show what `apply` would do, and what it would refuse.")
@_options[0]
@_options[1]
@with_settings(KAFKA)
def diff(settings: Settings, partitions: int | None, as_json: bool) -> int:
    from headrace.cli.kafka import reached_kafka

    with reached_kafka(settings, "headrace-topics") as kafka:
        changes = diff_topics(kafka.admin(), settings.topic_prefix, partitions)
    _print_changes(changes, as_json)
    return int(bool(changes))


@topics.command("grow", help="Add partitions to the queue of a living installation: as many nodes get work.")
@click.option("--partitions", type=click.IntRange(1), required=True, help="Of the queue; a multiple of those it has.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@_options[1]
@with_settings(KAFKA)
def grow(settings: Settings, partitions: int, dry_run: bool, as_json: bool) -> int:
    from headrace.cli.kafka import reached_kafka

    def say(step: Growth) -> None:
        _print_growth(step, "would get" if dry_run else "has got", as_json)

    with reached_kafka(settings, "headrace-topics") as kafka:
        if dry_run:
            steps = plan_growth(kafka.admin(), settings.topic_prefix, partitions)
            for step in steps:
                say(step)
        else:
            steps = grow_topics(kafka.admin(), settings.topic_prefix, partitions, say)
    if not as_json:
        click.echo(_after_growth(partitions, bool(steps), dry_run))
    return 0


@topics.command("acls", help="Print the least Kafka rights of each role, as commands for kafka-acls.")
@click.option("--role", "roles", multiple=True, type=click.Choice(ROLES), help="Only this role; may be repeated.")
@click.option(
    "--principal",
    "principals",
    multiple=True,
    metavar="ROLE=PRINCIPAL",
    help="Principal of a role, such as worker=User:CN=worker; default: User:headrace-<role>.",
)
@click.option(
    "--command-config",
    metavar="FILE",
    default="admin.properties",
    show_default=True,
    help="File with the client properties for kafka-acls; the client must be allowed to alter ACLs.",
)
@_options[1]
@with_settings(KAFKA)
def acls(
    settings: Settings, roles: tuple[str, ...], principals: tuple[str, ...], command_config: str, as_json: bool
) -> int:
    who = _principals(roles or ROLES, principals)
    if as_json:
        for r in acl_rules():
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
    server, config = shlex.quote(with_local_kafka(settings).kafka), shlex.quote(command_config)
    for line in acl_commands(
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


def _print_changes(changes: list[Change], as_json: bool) -> None:
    if as_json:
        for c in changes:
            row = {"topic": c.topic, "what": c.what, "fix": c.fix, "refused": c.refused}
            click.echo(orjson.dumps(row).decode())
        return
    for c in changes:
        click.echo(f"{'! ' if c.refused else '  '}{c.topic:22} {c.what}: {c.fix}")
    if not changes:
        click.echo("the cluster matches topics.yaml")


def _print_growth(step: Growth, verb: str, as_json: bool) -> None:
    if as_json:
        click.echo(orjson.dumps({"topic": step.topic, "had": step.have, "partitions": step.wanted}).decode())
    else:
        click.echo(f"  {step.topic:22} {verb} {step.wanted - step.have} partitions more: {step.wanted}")


def _after_growth(partitions: int, is_change: bool, dry_run: bool) -> str:
    if not is_change:
        return f"the queue has {partitions} partitions: nothing to do"
    if dry_run:
        return "nothing was changed; the topics outside the queue keep their partitions in any case"
    return (
        f"the queue has {partitions} partitions. Nodes that run take the new ones within seconds, producers use them "
        "when they next ask Kafka for its partitions (librdkafka and Java: within 5 minutes); restart nothing"
    )
