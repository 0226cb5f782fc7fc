"""`headrace produce`: sends a task to Kafka without the gateway, as any Kafka producer can."""

import click

from headrace.cli.options import KAFKA, with_settings
from headrace.cli.tasks import parse_payload
from headrace.contract.exact_json import encode_json
from headrace.contract.ids import new_id, parse_id
from headrace.contract.records import Outgoing
from headrace.contract.submission import Submission
from headrace.errors import Invalid, UsageError
from headrace.settings import Settings

_TIMEOUT_S = 10.0


@click.command(
    "produce",
    help="Send a task of kind NAME with PAYLOAD (JSON object, @file or @-) to Kafka, without the gateway.",
)
@click.argument("name")
@click.argument("payload", default="{}")
@click.option("--directory", "-d", default="default", show_default=True, help="Directory below the results root.")
@click.option("--id", "task_id", help="Id of the task (UUID); default: a new one.")
@with_settings(KAFKA)
def produce(settings: Settings, name: str, payload: str, directory: str, task_id: str | None) -> int:
    from headrace.cli.kafka import reached_kafka
    from headrace.kafka.sender import Sender

    own_id = new_id() if task_id is None else parse_id(task_id)
    if own_id is None:
        raise UsageError(f"{task_id!r} is not a UUID: give one, or leave out --id")
    body = {"name": name, "payload": parse_payload(payload), "directory": directory}
    try:
        value = encode_json(body)
        Submission.decode(value)
    except UnicodeEncodeError:
        raise UsageError("the name of the kind and the directory must be UTF-8") from None
    except Invalid as e:
        raise UsageError(f"{e.pointer or 'the submission'}: {e.detail}") from None
    with reached_kafka(settings, "headrace-produce") as kafka:
        sender = Sender(kafka, timeout_s=_TIMEOUT_S)
        try:
            [place] = sender.send_all([Outgoing("tasks.normal", own_id.encode(), value)])
        finally:
            sender.close(1)
    click.echo(f"{own_id}  {place[0]}/{place[1]}/{place[2]}")
    return 0
