"""`headrace dead list|redrive`: tasks that ended without a result; list them, or submit them again as new tasks."""

from typing import Any

import click

from headrace.cli.options import GATEWAY, with_settings
from headrace.cli.tasks import client_of, json_option, print_items, print_json
from headrace.settings import Settings

_FILTERS = (
    click.option(
        "--reason", help="Only this one: failed, invalid, unknown-kind, timeout, expired, cancelled or crashed."
    ),
    click.option("--name", help="Only this task kind."),
    click.option("--since", help="Only tasks that ended at this time or later (RFC 3339)."),
    click.option("--until", help="Only tasks that ended before this time (RFC 3339)."),
)


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


@dead.command("redrive", help="Submit the matching dead letters again, as new tasks.")
@_filtered
@click.option("--dry-run", is_flag=True, help="Only count them; submit nothing.")
@with_settings(GATEWAY)
def redrive(settings: Settings, dry_run: bool, **filters: str | None) -> int:
    body: dict[str, Any] = {k: v for k, v in filters.items() if v} | {"dry_run": dry_run}
    with client_of(settings) as client:
        answer = client.request("POST", "/dead/redrive", json=body)
        while answer["next"] is not None:  # a call answers within seconds, and the next one goes on
            more = client.request("POST", "/dead/redrive", json=body | {"cursor": answer["next"]})
            answer = {k: _joined(v, answer.get(k)) for k, v in more.items()}
        print_json({k: v for k, v in answer.items() if k not in ("next", "left", "wait_s")})
    return 0


def _joined(last: Any, before: Any) -> Any:
    """Counts and lists of several answers add up; the cursor is the last one's."""
    adds_up = isinstance(last, int | list) and not isinstance(last, bool) and before is not None
    return before + last if adds_up else last
