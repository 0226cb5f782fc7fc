"""`headrace produce`: a task straight to Kafka, without the gateway, as any Kafka producer can send one."""

import click
import orjson

from headrace.cli.options import KAFKA, with_a_kafka, with_settings
from headrace.cli.tasks import payload_of
from headrace.contract.ids import id_of_key, new_id
from headrace.contract.records import Outgoing
from headrace.contract.submission import Submission
from headrace.errors import Invalid, UsageError
from headrace.settings import Settings

_TIMEOUT_S = 10.0


@click.command("produce", help="Send a task of the kind NAME with PAYLOAD (JSON, or @file) straight to tasks.normal.")
@click.argument("name")
@click.argument("payload", default="{}")
@click.option("--directory", "-d", default="default", show_default=True, help="Results directory below the root.")
@click.option("--id", "task_id", help="Task id (UUID); default: a new one.")
@with_settings(KAFKA)
def produce(settings: Settings, name: str, payload: str, directory: str, task_id: str | None) -> int:
    from headrace.kafka.client import Kafka, Sender

    if task_id is not None and id_of_key(task_id.encode()) is None:
        raise UsageError(f"{task_id!r} is no UUID: give one, or leave --id out")
    body = {"name": name, "payload": payload_of(payload), "directory": directory}
    try:
        Submission.from_json(body)
    except Invalid as e:
        raise UsageError(f"{e.pointer or 'the submission'}: {e.detail}") from None
    key = task_id or new_id()
    sender = Sender(Kafka(with_a_kafka(settings), "headrace-produce"), timeout_s=_TIMEOUT_S)
    try:
        [place] = sender.send_all([Outgoing("tasks.normal", key.encode(), orjson.dumps(body))])
    finally:
        sender.close(1)
    click.echo(f"{key}  {place[0]}/{place[1]}/{place[2]}")
    return 0
