"""`headrace why`: the history of one task, read from Kafka alone, without gateway or database.

UsageError for what is not a task id, Unreachable when Kafka does not answer; exit code 4 when no record was found.
"""

import click

from headrace.cli.options import KAFKA, with_settings
from headrace.errors import UsageError
from headrace.settings import Settings


@click.command("why", help="The history of a task: every record in Kafka, where it is, and what followed from it.")
@click.argument("task_id")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_settings(KAFKA)
def why(settings: Settings, task_id: str, as_json: bool) -> int:
    import orjson

    from headrace.cli.kafka import reached_kafka
    from headrace.cli.why.search import find_records
    from headrace.cli.why.standing_still import waits_of
    from headrace.cli.why.timeline import timeline_of
    from headrace.contract.ids import parse_id
    from headrace.contract.timestamps import format_rfc3339

    own = parse_id(task_id)
    if own is None:
        raise UsageError(f"{task_id!r} is not a task id: give the UUID that `headrace submit` printed")
    with reached_kafka(settings, "headrace-why") as kafka:
        records = find_records(kafka, own)
        lines = timeline_of(records, own) + waits_of(kafka, records, own)
    if as_json:
        found = [{"at": format_rfc3339(line.at_ms), "place": line.source, "what": line.text} for line in lines]
        click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
    elif lines:
        width = max(len(line.source) for line in lines)
        for line in lines:
            click.echo(f"{format_rfc3339(line.at_ms)}  {line.source:{width}}  {line.text}")
    else:
        click.echo(f"Kafka has no record of task {own}", err=True)
    return 0 if lines else 4
