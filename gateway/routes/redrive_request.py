"""The body of POST /dead/redrive: which dead letters, and how they are submitted again.

Every field is checked, and one that is unknown or of another type is a Problem that names it: a misspelt filter must
not redrive everything.
"""

from dataclasses import dataclass
from typing import Any

from headrace.contract.ids import parse_id
from headrace.errors import Invalid

from ..http.problems import Problem
from ..http.query import parse_cursor, parse_filter
from ..view.store import TaskFilter

MAX_RATE = 100_000
_FILTERS = ("reason", "name", "directory", "status", "since", "until")
_FIELDS = (*_FILTERS, "ids", "dry_run", "again", "rate", "payload", "cursor")


@dataclass(frozen=True, slots=True)
class RedriveRequest:
    """A checked request."""

    filter: TaskFilter
    ids: tuple[str, ...]  # only these tasks; empty = those that match the filter
    dry_run: bool
    again: bool  # also the tasks that were redriven before
    rate: float  # tasks a second, 0 = no limit
    payload: dict[str, Any] | None  # replaces the old payload
    cursor: tuple[int, bytes] | None  # where an earlier call ended


def parse_redrive(body: Any) -> RedriveRequest:
    """The request in a parsed body; Problem bad-request, which names the field."""
    if not isinstance(body, dict):
        raise Problem("bad-request", "the body must be a JSON object with filters and options")
    for name in body:
        if name not in _FIELDS:
            raise _bad_field(name, f"unknown field {name[:100]!r}: the fields are {', '.join(_FIELDS)}")
    texts = {name: _text(body, name) for name in (*_FILTERS, "cursor")}
    ids = _ids(body.get("ids"))
    if ids and any(texts[name] for name in _FILTERS):
        raise _bad_field("ids", f"ids cannot be combined with {', '.join(_FILTERS)}")
    rate, payload = body.get("rate", 0), body.get("payload")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= MAX_RATE:
        raise _bad_field("rate", f"rate must be a number of tasks a second, from 0 to {MAX_RATE}")
    if payload is not None and not isinstance(payload, dict):
        raise _bad_field("payload", "payload must be an object: it replaces the payload of the old task")
    return RedriveRequest(
        filter=parse_filter(texts, dead=True),
        ids=ids,
        dry_run=_flag(body, "dry_run"),
        again=_flag(body, "again"),
        rate=float(rate),
        payload=payload,
        cursor=parse_cursor(texts),
    )


def _bad_field(name: str, detail: str) -> Problem:
    return Problem("bad-request", detail, [Invalid(detail, f"/{name.replace('~', '~0').replace('/', '~1')}")])


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise _bad_field(name, f"{name} must be text")
    return value or ""


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise _bad_field(name, f"{name} must be true or false")
    return bool(value)


def _ids(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not value:
        raise _bad_field("ids", "ids must be a list of one or more task ids")
    found: dict[str, None] = {}
    for number, text in enumerate(value):
        task_id = parse_id(text) if isinstance(text, str) else None
        if task_id is None:
            detail = f"{str(text)[:60]!r} is not a task id"
            raise Problem("bad-request", detail, [Invalid(detail, f"/ids/{number}")])
        found[task_id] = None
    return tuple(found)
