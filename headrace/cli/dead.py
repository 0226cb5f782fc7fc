"""`headrace dead list|redrive`: tasks that ended without a result; list them, or submit them again as new tasks.

A redrive of all dead letters is confirmed at a terminal, or by `--all`. UsageError when it is neither, and for options
that contradict each other.
"""

import sys
import time
from typing import Any

import click

from headrace.cli.options import GATEWAY, with_settings
from headrace.cli.tasks import client_of, json_option, print_items, print_json, task_id_of
from headrace.client import Client
from headrace.errors import UsageError
from headrace.settings import Settings

_FILTERS = (
    click.option(
        "--reason", help="Only this one: failed, invalid, unknown-kind, timeout, expired, cancelled or crashed."
    ),
    click.option("--name", help="Only this task kind."),
    click.option("--directory", help="Only this results directory."),
    click.option("--since", help="Only tasks that were submitted at this time or later (RFC 3339)."),
    click.option("--until", help="Only tasks that were submitted before this time (RFC 3339)."),
)
_NO_SUCH_TASK = "/problems/no-such-task"


def _filtered(command: Any) -> Any:
    for option in reversed(_FILTERS):
        command = option(command)
    return command


@click.group("dead", help="Dead letters: tasks that ended without a result.")
def dead() -> None: ...


@dead.command("list", help="List dead letters, newest first.")
@_filtered
@json_option
@with_settings(GATEWAY)
def list_dead(settings: Settings, as_json: bool, **filters: str | None) -> int:
    return print_items(settings, "/dead", as_json, _line, **filters)


def _line(item: dict[str, Any]) -> str:
    return f"{item['id']}  {item['name']}  {item.get('reason', item.get('status', ''))}  {item.get('error') or ''}"


@dead.command("redrive", help="Submit dead letters again, as new tasks: those that match, those named, or all.")
@click.argument("more_ids", metavar="[ID]...", nargs=-1)
@click.option("--id", "ids", multiple=True, metavar="ID", help="Only this task; --id A B C names three.")
@click.option("--all", "every", is_flag=True, help="All dead letters, without asking.")
@_filtered
@click.option("--again", is_flag=True, help="Also those that were redriven before.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Tasks a second; default: no limit.")
@click.option("--dry-run", is_flag=True, help="Only count them; submit nothing.")
@with_settings(GATEWAY)
def redrive(
    settings: Settings,
    ids: tuple[str, ...],
    more_ids: tuple[str, ...],
    every: bool,
    again: bool,
    rate: float | None,
    dry_run: bool,
    **filters: str | None,
) -> int:
    named, chosen = (
        [task_id_of(text) for text in (*ids, *more_ids)],
        {k: v for k, v in filters.items() if v is not None},
    )
    if (named and (every or chosen)) or (every and chosen):
        raise UsageError("name ids, or give filters, or --all: each of them alone says which dead letters are meant")
    if empty := [k for k, v in chosen.items() if not v]:
        raise UsageError(f"--{empty[0]} is empty: give a value, or leave it out")
    wanted: dict[str, Any] = {**chosen, **({"ids": named} if named else {}), **({"again": True} if again else {})}
    with client_of(settings) as client:
        if not (named or every or dry_run or chosen) and not _confirmed(client, wanted):
            click.echo("nothing was submitted", err=True)
            return 1
        answer = _redrive(client, wanted | {"dry_run": dry_run} | ({"rate": rate} if rate else {}))
    print_json(answer)
    _explain_skipped(answer, again, dry_run)
    return _exit_code(answer["items"])


def _confirmed(client: Client, wanted: dict[str, Any]) -> bool:
    """Asks a person at a terminal; UsageError where there is none."""
    if not sys.stdin.isatty():
        raise UsageError(
            "this would submit every dead letter again: name ids with --id, give a filter such as --name or --since, "
            "or say --all"
        )
    count = _redrive(client, wanted | {"dry_run": True})["would_redrive"]
    return click.confirm(f"Submit all {count} dead letters again, as new tasks?", default=False, err=True)


def _redrive(client: Client, body: dict[str, Any]) -> dict[str, Any]:
    """The sum of all answers: a call answers within seconds, and the next one goes on from its cursor."""
    answer = client.request("POST", "/dead/redrive", json=body)
    while answer["next"] is not None:
        time.sleep(answer.get("wait_s", 0.0))
        more = client.request("POST", "/dead/redrive", json=body | {"cursor": answer["next"]})
        more["items"] = [item for item in more["items"] if item not in answer["items"]]  # errors of ids come each time
        answer = {k: _joined(v, answer.get(k)) for k, v in more.items()}
    return {k: v for k, v in answer.items() if k not in ("next", "left", "wait_s")}


def _joined(last: Any, before: Any) -> Any:
    """Counts and lists of several answers add up; the cursor is the last one's."""
    adds_up = isinstance(last, int | list) and not isinstance(last, bool) and before is not None
    return before + last if adds_up else last


def _explain_skipped(answer: dict[str, Any], again: bool, dry_run: bool) -> None:
    errors = sum("error" in item for item in answer["items"])
    tried = answer["would_redrive"] if dry_run else answer["redriven"] + errors
    skipped = answer["matched"] - tried
    if skipped > 0 and not again:
        click.echo(f"{skipped} were redriven before and are skipped: say --again to submit them once more", err=True)


def _exit_code(items: list[dict[str, Any]]) -> int:
    errors = [item for item in items if "error" in item]
    if errors and all(item.get("type") == _NO_SUCH_TASK for item in errors):
        return 4
    return 1 if errors else 0
