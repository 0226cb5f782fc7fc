"""The commands of people who submit work: submit, status, events, result, cancel, and what there is to run it.

All talk to the gateway at HEADRACE_HTTP. `--json` prints what it answered, for machines; without it, lines for people.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import orjson

from headrace.cli.options import GATEWAY, with_settings
from headrace.client import Client, ServerEvent
from headrace.contract.states import TERMINAL
from headrace.errors import UsageError
from headrace.settings import Settings

as_json = click.option("--json", "machine", is_flag=True, help="Print JSON, for machines.")


def client_of(settings: Settings) -> Client:
    return Client(f"http://{settings.http}")


def show(found: Any) -> None:
    click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())


def payload_of(text: str) -> dict[str, Any]:
    """A JSON object, from the text itself or from the file after an @; `@-` reads standard input."""
    if text.startswith("@"):
        text = sys.stdin.read() if text == "@-" else Path(text[1:]).read_text()
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as e:
        raise UsageError(f"the payload is no JSON ({e}): give an object such as '{{\"upper_bound\": 100}}'") from None
    if not isinstance(found, dict):
        raise UsageError("the payload must be a JSON object with the kind's parameters")
    return found


@click.command("submit", help="Submit a task of the kind NAME with PAYLOAD (JSON, or @file).")
@click.argument("name")
@click.argument("payload", default="{}")
@click.option("--directory", "-d", default="default", show_default=True, help="Results directory below the root.")
@click.option("--timeout-s", type=float, help="Seconds an attempt may take; default: the kind's.")
@click.option("--max-attempts", type=int, help="Attempts at most; default: the kind's.")
@click.option("--expires-at", help="RFC 3339; not started after it.")
@click.option("--priority", type=click.Choice(["normal", "high"]), help="high goes before everything normal.")
@click.option("--wait", is_flag=True, help="Follow it to its end; exit code 1 when it does not complete.")
@as_json
@with_settings(GATEWAY)
def submit(settings: Settings, name: str, payload: str, wait: bool, machine: bool, **more: Any) -> int:
    directory = more.pop("directory")
    with client_of(settings) as client:
        answer = client.submit(name, payload_of(payload), directory, **more)
        if not wait:
            show(answer) if machine else click.echo(answer["id"])
            return 0
        return _follow(client, answer["id"], machine)


@click.command("status", help="Where a task is: its attempts, progress, result or error.")
@click.argument("task_id")
@as_json
@with_settings(GATEWAY)
def status(settings: Settings, task_id: str, machine: bool) -> int:
    with client_of(settings) as client:
        task = client.call("GET", f"/tasks/{task_id}")
    if machine:
        show(task)
        return 0
    click.echo(f"{task['id']}  {task['name']}  {task['status']}  {task['directory']}")
    for attempt in task["attempts"]:
        cause = f"  {attempt['cause']}" if attempt.get("cause") else ""
        click.echo(f"  attempt {attempt['attempt']} on {attempt['node']} at {attempt['started_at']}{cause}")
    if task.get("result"):
        click.echo(f"  result {task['result']['bytes']} bytes, sha256 {task['result']['sha256']}")
    if task.get("error"):
        click.echo(f"  error: {task['error']}")
    return 0


@click.command("events", help="Follow a task's events to its end, or everybody's when no TASK_ID is given.")
@click.argument("task_id", required=False)
@click.option("--name", help="Only of this kind (without TASK_ID).")
@click.option("--directory", help="Only of this directory (without TASK_ID).")
@as_json
@with_settings(GATEWAY)
def events(settings: Settings, task_id: str | None, name: str | None, directory: str | None, machine: bool) -> int:
    wanted = {k: v for k, v in {"name": name, "directory": directory}.items() if v}
    with client_of(settings) as client:
        for event in client.events(task_id, wanted):
            _tell(event, machine)
    return 0


@click.command("result", help="The stored result of a task, to standard output or a file.")
@click.argument("task_id")
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="File to write it to.")
@with_settings(GATEWAY)
def result(settings: Settings, task_id: str, output: Path | None) -> int:
    with client_of(settings) as client:
        pieces = client.result(task_id)
        first = next(pieces, b"")  # a problem is told before a file is made
        with output.open("wb") if output else click.get_binary_stream("stdout") as out:
            out.write(first)
            for piece in pieces:
                out.write(piece)
    return 0


@click.command("log", help="What an attempt of a task has printed: its last 256 KiB.")
@click.argument("task_id")
@click.option("--attempt", "-a", type=click.IntRange(min=1), help="Which attempt; default: the last one.")
@with_settings(GATEWAY)
def log(settings: Settings, task_id: str, attempt: int | None) -> int:
    with client_of(settings) as client:
        if attempt is None:
            attempts = client.call("GET", f"/tasks/{task_id}")["attempts"]
            attempt = max((a["attempt"] for a in attempts), default=1)
        click.get_binary_stream("stdout").write(client.attempt_log(task_id, attempt))
    return 0


@click.command("cancel", help="Cancel a task: queued it never starts, running its processes are killed.")
@click.argument("task_id")
@with_settings(GATEWAY)
def cancel(settings: Settings, task_id: str) -> int:
    with client_of(settings) as client:
        client.call("DELETE", f"/tasks/{task_id}")
    click.echo(f"{task_id} is being cancelled")
    return 0


@click.command("kinds", help="The task kinds that nodes announce, with their parameters.")
@as_json
@with_settings(GATEWAY)
def kinds(settings: Settings, machine: bool) -> int:
    return show_items(settings, "/kinds", machine, _kind_line)


@click.command("nodes", help="The worker nodes, their slots and what runs there.")
@as_json
@with_settings(GATEWAY)
def nodes(settings: Settings, machine: bool) -> int:
    return show_items(settings, "/nodes", machine, _node_line)


def show_items(
    settings: Settings, path: str, machine: bool, line: Callable[[dict[str, Any]], str], **params: str | None
) -> int:
    """What the gateway lists at `path`: JSON for machines, else a line each."""
    with client_of(settings) as client:
        items = client.call("GET", path, params={k: v for k, v in params.items() if v})["items"]
    if machine:
        show(items)
        return 0
    for item in items:
        click.echo(line(item))
    return 0


def _kind_line(kind: dict[str, Any]) -> str:
    parameters = ", ".join(kind["schema"].get("properties", {}))
    summary = (kind.get("description") or "").split("\n")[0]
    return f"{kind['name']}({parameters})  {summary}  on {len(kind['live'])} node(s)"


def _node_line(node: dict[str, Any]) -> str:
    return (
        f"{node['node']}  {node['host']}:{node['pid']}  {len(node['running'])} of {node['slots']} slots busy  "
        f"heard {node['seen_s']:.0f} s ago  {node.get('state', '')}"
    )


def _follow(client: Client, task_id: str, machine: bool) -> int:
    last = ""
    for event in client.events(task_id):
        _tell(event, machine)
        last = event.event
    return 0 if last == "completed" else 1


def _tell(event: ServerEvent, machine: bool) -> None:
    if machine:
        click.echo(orjson.dumps({"event": event.event} | event.data).decode())
        return
    data = event.data
    more = {
        "progress": lambda: f"{data.get('fraction', 0):.0%} {data.get('message', '')}",
        "failed": lambda: str(data.get("error") or data.get("reason") or ""),
    }.get(event.event, lambda: "")()
    end = click.style(event.event, bold=event.event in TERMINAL)
    click.echo(f"{data.get('at', '')}  {data.get('id', '')}  {data.get('name', '')}  {end}  {more}".rstrip())
