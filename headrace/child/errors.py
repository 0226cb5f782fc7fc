"""What is told of an attempt's error: the last lines of its traceback, cut and printable.

Called by `headrace.child.attempt`. The frames shown are the task's: ours, and those of the event loop that runs an
`async def` kind, say nothing to its author. Nothing here fails, whatever the error's own methods do.
"""

import os
import traceback
from pathlib import Path
from types import TracebackType

import headrace.event_loop
import headrace.kinds
from headrace.contract.printable import printable

MAX_LINES = 20
MAX_LINE_CHARACTERS = 1000
MAX_BYTES = 4000  # of the whole text: it travels in a header, and again in the ledger

_OURS = (
    str(Path(__file__).parent),
    headrace.kinds.__file__,
    headrace.event_loop.__file__,
    str(Path(os.__file__).parent / "asyncio"),  # not imported, as headrace.event_loop says
)


def describe_error(error: BaseException) -> str:
    """The error's traceback, of at most MAX_LINES lines and MAX_BYTES bytes of UTF-8; its beginning is cut first."""
    try:
        lines = _traceback_lines(error)
    except BaseException:  # noqa: BLE001 - the error's own attributes may raise anything
        lines = [f"{_type_name(error)}: the error's text could not be formatted"]
    head, kept = [], lines[-MAX_LINES:]
    if len(kept) < len(lines) and (summary := _summary(error)) not in kept:
        head = [summary, "…"]  # an exception group prints what it holds after its own message
    while len(kept) > 1 and len("\n".join(head + kept).encode()) > MAX_BYTES:
        del kept[0]
    return "\n".join(head + kept).encode()[:MAX_BYTES].decode(errors="ignore")


def _traceback_lines(error: BaseException) -> list[str]:
    text = "".join(traceback.format_exception(type(error), error, _own_frames(error.__traceback__)))
    return [printable(line, MAX_LINE_CHARACTERS) for line in text.rstrip().split("\n")]


def _own_frames(at: TracebackType | None) -> TracebackType | None:
    """The traceback from the task's first frame on; None when all frames are ours."""
    while at is not None and at.tb_frame.f_code.co_filename.startswith(_OURS):
        at = at.tb_next
    return at


def _summary(error: BaseException) -> str:
    try:
        [first, *_] = traceback.format_exception_only(error)
        return printable(first.split("\n", 1)[0], MAX_LINE_CHARACTERS)
    except BaseException:  # noqa: BLE001 - as above
        return _type_name(error)


def _type_name(error: BaseException) -> str:
    return printable(type.__getattribute__(type(error), "__name__"), MAX_LINE_CHARACTERS)
