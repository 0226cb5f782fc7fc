"""`headrace dead list|redrive`: tasks that ended without a result, and sending them again as new tasks."""

from typing import Any

import click

from headrace.cli.options import GATEWAY, with_settings
from headrace.cli.tasks import as_json, client_of, show, show_items
from headrace.settings import Settings

_FILTERS = (
    click.option("--reason", help="failed, invalid, unknown-kind, timeout, expired, cancelled or crashed."),
    click.option("--name", help="Only of this kind."),
    click.option("--since", help="RFC 3339: ended at or after it."),
    click.option("--until", help="RFC 3339: ended before it."),
)


def _filtered(command: Any) -> Any:
    for option in reversed(_FILTERS):
        command = option(command)
    return command


@click.group("dead", help="Dead letters: tasks that ended without a result.")
def dead() -> None: ...


@dead.command("list", help="Dead letters, newest first.")
@_filtered
@as_json
@with_settings(GATEWAY)
def list_dead(settings: Settings, machine: bool, **filters: str | None) -> int:
    return show_items(settings, "/dead", machine, _line, **filters)


def _line(item: dict[str, Any]) -> str:
    return f"{item['id']}  {item['name']}  {item.get('reason', item.get('status', ''))}  {item.get('error') or ''}"


@dead.command("redrive", help="Submit the matching ones again, as new tasks.")
@_filtered
@click.option("--dry-run", is_flag=True, help="Only count them.")
@with_settings(GATEWAY)
def redrive(settings: Settings, dry_run: bool, **filters: str | None) -> int:
    body: dict[str, Any] = {k: v for k, v in filters.items() if v} | {"dry_run": dry_run}
    with client_of(settings) as client:
        show(client.call("POST", "/dead/redrive", json=body))
    return 0
