"""Query parameters of the lists and event streams: filters, limits and cursors.

A cursor is the place where a page ended, (submitted_ms, id), so new tasks never shift the next page. A parameter that
cannot be parsed raises Problem bad-request, which names it.
"""

import base64
from collections.abc import Mapping
from datetime import datetime

from headrace.contract.states import Reason, Status
from headrace.contract.timestamps import parse_rfc3339
from headrace.errors import Invalid

from ..view.store import TaskFilter
from .problems import Problem

MAX_LIMIT = 1000
DEFAULT_LIMIT = 50
_CURSOR_BYTES = 24  # eight of the time, sixteen of the id


def parse_filter(query: Mapping[str, str], times: bool = True, dead: bool = False) -> TaskFilter:
    """The filter in the query parameters. `times`: with `since` and `until`; `dead`: dead letters only, by `reason`."""
    status, reason = query.get("status", ""), query.get("reason", "")
    if status and status not in set(Status):
        raise bad_parameter("status", f"status must be one of {', '.join(Status)}")
    if reason and reason not in set(Reason):
        raise bad_parameter("reason", f"reason must be one of {', '.join(Reason)}")
    since, until = (_time_ms(query, "since"), _time_ms(query, "until")) if times else (0, 0)
    return TaskFilter(
        status=status,
        name=query.get("name", ""),
        directory=query.get("directory", ""),
        since_ms=since,
        until_ms=until,
        dead=dead,
        reason=reason if dead else "",
    )


def parse_limit(query: Mapping[str, str], default: int = DEFAULT_LIMIT, maximum: int = MAX_LIMIT) -> int:
    """How many items a page may have."""
    text = query.get("limit", str(default))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:10]) <= maximum):
        raise bad_parameter("limit", f"limit must be a whole number from 1 to {maximum}")
    return int(text)


def parse_cursor(query: Mapping[str, str]) -> tuple[int, bytes] | None:
    """(submitted_ms, id) of the last task of the page before; None for the first page."""
    text = query.get("cursor", "")
    if not text:
        return None
    try:
        raw = decode_base64(text)
    except ValueError:
        raise bad_cursor() from None
    if len(raw) != _CURSOR_BYTES:
        raise bad_cursor()
    return int.from_bytes(raw[:8], "big", signed=True), raw[8:]


def encode_cursor(submitted_ms: int, task_id: bytes) -> str:
    """The inverse of `parse_cursor`."""
    return encode_base64(submitted_ms.to_bytes(8, "big", signed=True) + task_id)


def encode_base64(raw: bytes) -> str:
    """Base64 that a URL can hold, without padding."""
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def decode_base64(text: str) -> bytes:
    """The inverse of `encode_base64`; raises ValueError."""
    return base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))


def bad_parameter(parameter: str, detail: str) -> Problem:
    """The problem of a query parameter that cannot be parsed."""
    return Problem("bad-request", detail, [Invalid(detail, f"?{parameter}")])


def bad_cursor() -> Problem:
    return bad_parameter("cursor", "cursor must be the `next` of an earlier page")


def parse_time(query: Mapping[str, str], name: str) -> datetime | None:
    """The parameter as a time in UTC; None without it."""
    text = query.get(name, "")
    if not text:
        return None
    try:
        return parse_rfc3339(text.replace(" ", "+"))  # a `+` that was not escaped arrives as a space
    except ValueError as e:
        raise bad_parameter(name, f"{name} {e}") from None


def _time_ms(query: Mapping[str, str], name: str) -> int:
    found = parse_time(query, name)
    return 0 if found is None else int(found.timestamp() * 1000)
