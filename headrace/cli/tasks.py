"""The commands that talk to the gateway at HEADRACE_HTTP: submit, status, events, result, log, cancel, kinds, nodes.

They print lines for people, or with `--json` the gateway's answer. UsageError for a payload that is no JSON object, a
text that is no task id, or a file that cannot be used; Refused and Unreachable as in `headrace.client`.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import orjson

from headrace.cli.options import GATEWAY, with_settings
from headrace.cli.output_file import write_file
from headrace.client import Client, ServerEvent, task_path
from headrace.contract.exact_json import parse_json
from headrace.contract.ids import parse_id
from headrace.contract.states import TERMINAL
from headrace.errors import Invalid, Undecodable, UsageError
from headrace.settings import Settings

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def client_of(settings: Settings) -> Client:
    return Client(f"http://{settings.http}")


def print_json(found: Any) -> None:
    click.echo(json.dumps(found, indent=2, ensure_ascii=False))  # orjson has no integers beyond 64 bits


def task_id_of(text: str) -> str:
    """The task id in its canonical form; UsageError for a text that is none."""
    if (task_id := parse_id(text)) is None:
        raise UsageError(f"{text!r} is not a task id: give the UUID that `headrace submit` printed")
    return task_id


def parse_payload(text: str) -> dict[str, Any]:
    """A JSON object from the text, from the file in `@file`, or from standard input for `@-`; UsageError."""
    raw = (
        _read_payload(text[1:]) if text.startswith("@") else text.encode(errors="surrogateescape")
    )  # arguments may be no UTF-8
    try:
        found = parse_json(raw)
    except Undecodable as e:
        why = e.detail.removeprefix("not JSON: ")
        raise UsageError(
            f"the payload is not JSON ({why}): give an object such as '{{\"upper_bound\": 100}}'"
        ) from None
    except Invalid as e:
        raise UsageError(f"the payload cannot be sent: {e.pointer or 'it'}: {e.detail}") from None
    if not isinstance(found, dict):
        raise UsageError("the payload must be a JSON object with the kind's parameters")
    return found


def _read_payload(file: str) -> bytes:
    if file == "-":
        return click.get_binary_stream("stdin").read()
    try:
        return Path(file).read_bytes()
    except (OSError, ValueError) as e:  # ValueError: a path with a null character
        why = e.strerror if isinstance(e, OSError) else str(e)
        raise UsageError(f"the payload's file {file!r} cannot be read ({why}): give a readable file after @") from None


@click.command("submit", help="Submit a task of kind NAME with PAYLOAD (a JSON object, @file, or @- for stdin).")
@click.argument("name")
@click.argument("payload", default="{}")
@click.option("--directory", "-d", default="default", show_default=True, help="Directory below the results root.")
@click.option("--timeout-s", type=float, help="Seconds that an attempt may take; default: the kind's.")
@click.option("--max-attempts", type=int, help="Largest number of attempts; default: the kind's.")
@click.option("--expires-at", help="Do not start the task after this time (RFC 3339).")
@click.option("--priority", type=click.Choice(["normal", "high"]), help="high: before all normal tasks.")
@click.option("--wait", is_flag=True, help="Follow the task to its end; exit code 3 unless it completes.")
@json_option
@with_settings(GATEWAY)
def submit(settings: Settings, name: str, payload: str, wait: bool, as_json: bool, **more: Any) -> int:
    directory = more.pop("directory")
    checked = parse_payload(payload)
    with client_of(settings) as client:
        answer = client.submit(name, checked, directory, **more)
        if not wait:
            print_json(answer) if as_json else click.echo(answer["id"])
            return 0
        return _follow(client, answer["id"], as_json)


@click.command("status", help="The status of a task: its attempts, and its result or error.")
@click.argument("task_id")
@json_option
@with_settings(GATEWAY)
def status(settings: Settings, task_id: str, as_json: bool) -> int:
    with client_of(settings) as client:
        task = client.request("GET", task_path(task_id_of(task_id)))
    if as_json:
        print_json(task)
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


@click.command("events", help="Follow the events of a task to its end; without TASK_ID those of all tasks.")
@click.argument("task_id", required=False)
@click.option("--name", help="Only this task kind; not with TASK_ID.")
@click.option("--directory", help="Only this results directory; not with TASK_ID.")
@json_option
@with_settings(GATEWAY)
def events(settings: Settings, task_id: str | None, name: str | None, directory: str | None, as_json: bool) -> int:
    wanted = {k: v for k, v in {"name": name, "directory": directory}.items() if v}
    if task_id and wanted:
        raise UsageError("--name and --directory choose among all tasks: leave them out, or leave out TASK_ID")
    task_id = task_id_of(task_id) if task_id else None
    with client_of(settings) as client:
        for event in client.events(task_id, wanted, say=_say):
            _print_event(event, as_json)
    return 0


@click.command("result", help="Write the result of a task to standard output or to a file.")
@click.argument("task_id")
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="File; default: standard output.")
@with_settings(GATEWAY)
def result(settings: Settings, task_id: str, output: Path | None) -> int:
    task_id = task_id_of(task_id)
    with client_of(settings) as client:
        pieces = client.result(task_id)
        first = next(pieces, b"")  # a problem is raised before the file is opened
        if output is not None:
            write_file(output, _with_first(first, pieces))
            return 0
        out = click.get_binary_stream("stdout")
        for piece in _with_first(first, pieces):
            out.write(piece)
        out.flush()
    return 0


def _with_first(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


@click.command("log", help="What an attempt of a task printed: the last 256 KiB.")
@click.argument("task_id")
@click.option("--attempt", "-a", type=click.IntRange(min=1), help="Number of the attempt; default: the last one.")
@with_settings(GATEWAY)
def log(settings: Settings, task_id: str, attempt: int | None) -> int:
    task_id = task_id_of(task_id)
    with client_of(settings) as client:
        if attempt is None:
            attempts = client.request("GET", task_path(task_id))["attempts"]
            attempt = max((a["attempt"] for a in attempts), default=1)
        click.get_binary_stream("stdout").write(client.attempt_log(task_id, attempt))
    return 0


@click.command("cancel", help="Cancel a task: if it is queued it never starts, if it runs its processes are killed.")
@click.argument("task_id")
@with_settings(GATEWAY)
def cancel(settings: Settings, task_id: str) -> int:
    task_id = task_id_of(task_id)
    with client_of(settings) as client:
        client.request("DELETE", task_path(task_id))
    click.echo(f"{task_id} is being cancelled")
    return 0


@click.command("kinds", help="List the task kinds of all nodes, with their parameters.")
@json_option
@with_settings(GATEWAY)
def kinds(settings: Settings, as_json: bool) -> int:
    return print_items(settings, "/kinds", as_json, _kind_line)


@click.command("nodes", help="List the worker nodes and how many of their slots are busy.")
@json_option
@with_settings(GATEWAY)
def nodes(settings: Settings, as_json: bool) -> int:
    return print_items(settings, "/nodes", as_json, _node_line)


def print_items(
    settings: Settings, path: str, as_json: bool, line: Callable[[dict[str, Any]], str], **params: str | None
) -> int:
    """Prints what the gateway lists at `path`: JSON, or one line an item. Returns the exit code."""
    given = {k: v for k, v in params.items() if v}
    with client_of(settings) as client:
        items = _all_items(client, path, given)
        if as_json:
            print_json(list(items))
            return 0
        for item in items:
            click.echo(line(item))
    return 0


def _all_items(client: Client, path: str, params: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The items of all pages."""
    page = client.request("GET", path, params=params)
    yield from page["items"]
    while page.get("next"):
        page = client.request("GET", path, params=params | {"cursor": page["next"]})
        yield from page["items"]


def _kind_line(kind: dict[str, Any]) -> str:
    parameters = ", ".join(kind["schema"].get("properties", {}))
    summary = (kind.get("description") or "").split("\n")[0]
    return f"{kind['name']}({parameters})  {summary}  on {len(kind['live'])} node(s)"


def _node_line(node: dict[str, Any]) -> str:
    has_ended = node.get("state") in ("drained", "dead")
    slots = f"{node['slots']} slots" if has_ended else f"{len(node['running'])} of {node['slots']} slots busy"
    state = node.get("state", "")
    waits = "".join(f"\n    since {wait['since']}: {wait['text']}" for wait in node.get("waits", []))
    return f"{node['node']}  {node['host']}:{node['pid']}  {state}  {slots}  heard {node['seen_s']:.0f} s ago{waits}"


def _say(line: str) -> None:
    click.echo(f"headrace: {line}", err=True)


def _follow(client: Client, task_id: str, as_json: bool) -> int:
    last = ""
    for event in client.events(task_id, say=_say):
        _print_event(event, as_json)
        last = event.event
    return 0 if last == "completed" else 3


def _print_event(event: ServerEvent, as_json: bool) -> None:
    if as_json:
        click.echo(orjson.dumps({"event": event.event} | event.data).decode())
        return
    data = event.data
    if event.event == "reset":
        _say(f"some events are missing: {data.get('reason') or 'Kafka no longer holds them'}")
        return
    more = {
        "progress": lambda: f"{data.get('fraction', 0):.0%} {data.get('message', '')}",
        "failed": lambda: str(data.get("error") or data.get("reason") or ""),
    }.get(event.event, lambda: "")()
    end = click.style(event.event, bold=event.event in TERMINAL)
    click.echo(f"{data.get('at', '')}  {data.get('id', '')}  {data.get('name', '')}  {end}  {more}".rstrip())
