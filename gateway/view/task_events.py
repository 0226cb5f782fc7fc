"""What a task's row tells listeners, in the canonical order: received, started, progress by offset, the terminal event.

Pure. The place in that order is the event's id on a task's own stream: `1`, `2`, `p<offset>`, `9`. A predecessor whose
own record has not been read is told from what its successor says. Used by both event streams and by GET /tasks/{id}.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gateway.view.projection import TaskView, id_text
from gateway.view.store import StoredProgress
from headrace.contract.states import Status

RECEIVED, STARTED, ENDED = "1", "2", "9"


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """One event for listeners; `place` is its id on the stream of its task."""

    place: str
    event: str
    data: dict[str, Any]


def received(row: TaskView) -> TaskEvent:
    return _told(row, RECEIVED, "received", Status.QUEUED, row.submitted_ms)


def started(row: TaskView, at_ms: int = 0) -> TaskEvent:
    """`at_ms` stands in while the start's own record has not been read."""
    return _told(row, STARTED, "started", Status.RUNNING, row.started_ms or at_ms)


def progress(row: TaskView, report: StoredProgress) -> TaskEvent:
    more = {"attempt": report.attempt, "fraction": report.fraction, "message": report.message}
    return _told(row, f"p{report.offset}", "progress", Status.RUNNING, report.at_ms, **more)


def ended(row: TaskView) -> TaskEvent:
    more: dict[str, Any] = {"result": result_of(row)}
    if row.status is not Status.COMPLETED:
        more = {"reason": row.reason, "error": row.error}
    return _told(row, ENDED, row.status, row.status, row.ended_ms, **more)


def place_valid(place: str) -> bool:
    """Whether a Last-Event-ID is one that a task's stream gives."""
    return place in (RECEIVED, STARTED, ENDED) or (
        place[:1] == "p" and place[1:].isascii() and place[1:].isdigit() and len(place) < 20
    )


def all_after(row: TaskView, reports: Sequence[StoredProgress], after: str, more: bool = False) -> list[TaskEvent]:
    """What a listener that has had everything up to `after` ("" = nothing) is to be told now, in order.

    `reports` are those beyond `after`; with `more` there are others beyond them, so that the end is not told yet.
    """
    if after == ENDED or not (row.announced or reports):
        return []
    told = [received(row)] if after == "" else []
    if after in ("", RECEIVED) and (row.has_started or reports):
        told.append(started(row, reports[0].at_ms if reports else 0))
    told += [progress(row, r) for r in reports]
    return [*told, ended(row)] if row.status.terminal and not more else told


def progress_offset(after: str) -> int:
    """Offset of the last report that a listener at that place has had; -1 for none."""
    return int(after[1:]) if after.startswith("p") else -1


def result_of(row: TaskView) -> dict[str, Any] | None:
    if row.status is not Status.COMPLETED:
        return None
    return {
        "href": f"/tasks/{id_text(row.id)}/result",
        "bytes": row.size,
        "sha256": row.sha256,
        "content_type": row.content_type,
    }


def moment(ms: int) -> str | None:
    """RFC 3339 in UTC with milliseconds; None for 0, a moment that is not known."""
    if ms <= 0:
        return None
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return None  # a forged time


def _told(row: TaskView, place: str, event: str, status: str, at_ms: int, **more: Any) -> TaskEvent:
    data = {
        "id": id_text(row.id),
        "name": row.name,
        "directory": row.directory,
        "status": status,
        "at": moment(at_ms),
        **more,
    }
    return TaskEvent(place, event, data)
