"""Filters and cursors of GET /tasks, GET /dead and GET /events: from query parameters, and back into a cursor.

A cursor is where a page ended, (submitted_ms, id), so that a page never depends on what came in between. Parameters
that cannot be read are Problem bad-request, which names them.
"""

import base64
from collections.abc import Mapping
from datetime import datetime

from gateway.http.problems import Problem
from gateway.view.store import Filter
from headrace.contract.states import Reason, Status
from headrace.contract.timestamps import parse_rfc3339
from headrace.errors import Invalid

MAX_LIMIT = 1000
DEFAULT_LIMIT = 50


def filter_of(query: Mapping[str, str], times: bool = True, dead: bool = False) -> Filter:
    """The filter that query parameters ask for."""
    status, reason = query.get("status", ""), query.get("reason", "")
    if status and status not in set(Status):
        raise bad("status", f"status must be one of {', '.join(Status)}")
    if reason and reason not in set(Reason):
        raise bad("reason", f"reason must be one of {', '.join(Reason)}")
    since, until = (_time_ms(query, "since"), _time_ms(query, "until")) if times else (0, 0)
    return Filter(status, query.get("name", ""), query.get("directory", ""), since, until, dead, reason if dead else "")


def limit_of(query: Mapping[str, str]) -> int:
    text = query.get("limit", str(DEFAULT_LIMIT))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:10]) <= MAX_LIMIT):
        raise bad("limit", f"limit must be a whole number from 1 to {MAX_LIMIT}")
    return int(text)


def cursor_of(query: Mapping[str, str]) -> tuple[int, bytes] | None:
    text = query.get("cursor", "")
    if not text:
        return None
    try:
        raw = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        if len(raw) != 24:
            raise ValueError
    except ValueError:
        raise bad("cursor", "cursor must be the `next` of an earlier page") from None
    return int.from_bytes(raw[:8], "big", signed=True), raw[8:]


def encode_cursor(submitted_ms: int, task_id: bytes) -> str:
    return base64.urlsafe_b64encode(submitted_ms.to_bytes(8, "big", signed=True) + task_id).decode()


def bad(parameter: str, detail: str) -> Problem:
    return Problem("bad-request", detail, [Invalid(detail, f"?{parameter}")])


def time_of(query: Mapping[str, str], name: str) -> datetime | None:
    """The parameter as a time in UTC; None without it."""
    text = query.get(name, "")
    if not text:
        return None
    try:
        return parse_rfc3339(text.replace(" ", "+"))  # a `+` that was not escaped arrives as a space
    except ValueError as e:
        raise bad(name, f"{name} {e}") from None


def _time_ms(query: Mapping[str, str], name: str) -> int:
    found = time_of(query, name)
    return 0 if found is None else int(found.timestamp() * 1000)
