"""`headrace why`: a task's whole story, rebuilt from the log alone. No gateway, no database, nothing but Kafka."""

import click

from headrace.cli.options import KAFKA, with_a_kafka, with_settings
from headrace.errors import UsageError
from headrace.settings import Settings


@click.command("why", help="A task's whole story from the log: every record, its place, and what was decided by it.")
@click.argument("task_id")
@click.option("--json", "machine", is_flag=True, help="Print JSON, for machines.")
@with_settings(KAFKA)
def why(settings: Settings, task_id: str, machine: bool) -> int:
    import orjson
    from confluent_kafka import KafkaException

    from headrace.cli.why.search import find_records
    from headrace.cli.why.timeline import tell
    from headrace.contract.ids import id_of_key
    from headrace.errors import Retryable
    from headrace.kafka.client import Kafka

    own = id_of_key(task_id.encode())
    if own is None:
        raise UsageError(f"{task_id!r} is no task id: give the UUID that the submission was answered with")
    try:
        lines = tell(find_records(Kafka(with_a_kafka(settings), "headrace-why"), own), own)
    except KafkaException as e:
        raise Retryable(f"Kafka does not answer: {e.args[0].str()}") from None
    if machine:
        found = [{"at": _moment(line.at_ms), "place": line.place, "what": line.what} for line in lines]
        click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
    elif lines:
        width = max(len(line.place) for line in lines)
        for line in lines:
            click.echo(f"{_moment(line.at_ms)}  {line.place:{width}}  {line.what}")
    else:
        click.echo(f"the log knows nothing of {own}", err=True)
    return 0 if lines else 1


def _moment(ms: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
