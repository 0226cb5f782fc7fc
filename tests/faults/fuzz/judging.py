"""What an attempt's end must be. A judge returns what is wrong with it, or None."""

import json
from collections.abc import Callable
from typing import Any

from agents.execution.job import AttemptEnd
from headrace.contract.states import Cause
from tests.faults.fuzz.values import same

Complaint = str | None
Judge = Callable[[AttemptEnd], Complaint]
MOST_DETAIL = 16_384  # characters of an error


def content(end: AttemptEnd) -> bytes:
    """The result, wherever it is."""
    return end.result_file.read_bytes() if end.result_file is not None else end.value or b""


def completed(raw: bytes) -> Judge:
    """With exactly that result."""

    def judge(end: AttemptEnd) -> Complaint:
        if end.cause is not None:
            return f"{end.cause}: {end.detail[-500:]}"
        found = content(end)
        return None if found == raw else f"the result is {found[:100]!r} ({len(found)} bytes)"

    return judge


def came_back(end: AttemptEnd, value: Any) -> Complaint:
    """With that value as JSON, kinds of numbers included."""
    if end.cause is not None:
        return f"{end.cause}: {end.detail[-500:]}"
    found = content(end)
    return None if same(json.loads(found), value) else f"came back as {found[:200]!r}"


def failed(cause: Cause, words: str = "") -> Judge:
    """For that cause, with these words."""

    def judge(end: AttemptEnd) -> Complaint:
        if end.cause is not cause:
            return f"{end.cause or 'completed'}: {end.detail[-500:]}"
        return _unprintable(end.detail) or (
            None if words in end.detail else f"{words!r} is not in {end.detail[-500:]!r}"
        )

    return judge


def either(raw: bytes) -> Judge:
    """Completed with that result, or an error of the task."""
    return lambda end: failed(Cause.ERROR)(end) if end.cause is not None else completed(raw)(end)


def ended(end: AttemptEnd) -> Complaint:
    """However it ended, it was the task's own doing."""
    if end.cause in (Cause.NODE_LOSS, Cause.DRAIN) or not end.begun:
        return f"{end.cause}: {end.detail[-500:]}"
    return _unprintable(end.detail)


def _unprintable(detail: str) -> Complaint:
    if not detail.isascii() and detail.encode(errors="replace").decode() != detail:
        return f"the error has words that cannot be encoded: {detail[-200:]!a}"
    return f"the error has {len(detail)} characters" if len(detail) > MOST_DETAIL else None
