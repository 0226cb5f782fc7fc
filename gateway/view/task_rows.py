"""A task as a row of the status view, in few bytes: what can be told from its other columns is left out.

Used by the status store. A digest is kept as bytes; a result's file as its suffix, when it lies where results lie; the
usual content type as one byte; an attempt without its last unknown fields. Pure; Damaged for a row that was never
written.
"""

from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

import orjson

from headrace.contract.states import Status
from headrace.storage.sqlite import Damaged

from .projection import COLUMNS, AttemptView, TaskView, id_text, values_of

STORED = (*COLUMNS, "attempts")  # the columns of a row, in their order
_FILE, _SHA256, _CONTENT_TYPE = (COLUMNS.index(c) for c in ("file", "sha256", "content_type"))
_JSON, _JSON_TYPE = b"j", "application/json"
_SHA256_HEX = 64

_attempt_values = attrgetter(*(f.name for f in fields(AttemptView)))


def row_of(task: TaskView) -> tuple[Any, ...]:
    """The values of STORED."""
    row: list[Any] = [*values_of(task), _attempts_text(task.attempts)]
    if task.file:
        usual = f"{task.directory}/{id_text(task.id)}"
        if task.file.startswith(usual):
            row[_FILE] = task.file[len(usual) :].encode(errors="surrogatepass")
        row[_SHA256] = _short_digest(task.sha256)
        if task.content_type == _JSON_TYPE:
            row[_CONTENT_TYPE] = _JSON
    return tuple(row)


def task_of(row: Sequence[Any]) -> TaskView:
    """The task of a row. Damaged: SQLite itself does not notice bytes that changed within a value."""
    try:
        task = TaskView(**dict(zip(COLUMNS, row[:-1], strict=True)))
        task.status = Status(task.status)
        task.attempts = [AttemptView(*a) for a in orjson.loads(row[-1])] if row[-1] else []
        file, sha256, content_type = row[_FILE], row[_SHA256], row[_CONTENT_TYPE]
        if isinstance(file, bytes):
            task.file = f"{task.directory}/{id_text(task.id)}{file.decode(errors='surrogatepass')}"
        if isinstance(sha256, bytes):
            task.sha256 = sha256.hex()
        if content_type == _JSON:
            task.content_type = _JSON_TYPE
    except (ValueError, TypeError) as e:
        raise Damaged(f"a task's row cannot be read: {e}") from None
    return task


def _short_digest(text: str) -> bytes | str:
    """The 32 bytes of a digest in lower-case hex; any other text, which nobody but a forger writes, as it is."""
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        return text
    return raw if len(text) == _SHA256_HEX and raw.hex() == text else text


def _attempts_text(attempts: Sequence[AttemptView]) -> str:
    if not attempts:
        return ""
    rows = [list(_attempt_values(a)) for a in attempts]
    for row in rows:
        while len(row) > 1 and not row[-1]:
            row.pop()
    return orjson.dumps(rows).decode()
