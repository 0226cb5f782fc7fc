"""The events of one task, in their order: received, started, progress by offset, the terminal event.

Pure. Both event streams use it, and `result_json` and `rfc3339` also serve GET /tasks. The place in that order is the
event's id on the task's own stream: `1`, `2`, `p<offset>`, `9`. When the record of an earlier event has not been read
yet, that event is built from what the later record says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headrace.contract.states import Status
from headrace.contract.timestamps import format_rfc3339

from .projection import TaskView, id_text
from .store import StoredProgress

RECEIVED, STARTED, ENDED = "1", "2", "9"


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """One event for listeners; `id` is its id on the stream of its task."""

    id: str
    event: str
    data: dict[str, Any]


def received(task: TaskView) -> TaskEvent:
    return _event(task, RECEIVED, "received", Status.QUEUED, task.submitted_ms)


def started(task: TaskView, at_ms: int = 0) -> TaskEvent:
    """`at_ms` is the time to show while the start's own record has not been read."""
    return _event(task, STARTED, "started", Status.RUNNING, task.started_ms or at_ms)


def progress(task: TaskView, report: StoredProgress) -> TaskEvent:
    more = {"attempt": report.attempt, "fraction": report.fraction, "message": report.message}
    return _event(task, f"p{report.offset}", "progress", Status.RUNNING, report.at_ms, **more)


def ended(task: TaskView) -> TaskEvent:
    more: dict[str, Any] = {"result": result_json(task)}
    if task.status is not Status.COMPLETED:
        more = {"reason": task.reason, "error": task.error}
    return _event(task, ENDED, task.status, task.status, task.ended_ms, **more)


def is_event_id(text: str) -> bool:
    """Whether a Last-Event-ID is one that a task's stream sends."""
    return text in (RECEIVED, STARTED, ENDED) or (
        text[:1] == "p" and text[1:].isascii() and text[1:].isdigit() and len(text) < 20
    )


def remaining_events(
    task: TaskView, reports: Sequence[StoredProgress], after: str, more: bool = False
) -> list[TaskEvent]:
    """The events that follow the one with the id `after` ("" = from the beginning), in order.

    `reports` are the progress reports beyond `after`. `more`: others follow them, so the terminal event must wait.
    """
    if after == ENDED or not (task.announced or reports):
        return []
    events = [received(task)] if after == "" else []
    if after in ("", RECEIVED) and (task.has_started or reports):
        events.append(started(task, reports[0].at_ms if reports else 0))
    events += [progress(task, r) for r in reports]
    return [*events, ended(task)] if task.status.terminal and not more else events


def progress_offset(event_id: str) -> int:
    """The offset of the last progress report up to that event; -1 for none."""
    return int(event_id[1:]) if event_id.startswith("p") else -1


def result_json(task: TaskView) -> dict[str, Any] | None:
    """The link to a completed task's result, its size in bytes, SHA-256 and content type; None before completion."""
    if task.status is not Status.COMPLETED:
        return None
    return {
        "href": f"/tasks/{id_text(task.id)}/result",
        "bytes": task.size,
        "sha256": task.sha256,
        "content_type": task.content_type,
    }


def rfc3339(ms: int) -> str | None:
    """Milliseconds since the epoch as RFC 3339 in UTC; None for an unknown time (0) or one that is no date."""
    if ms <= 0:
        return None
    try:
        return format_rfc3339(ms)
    except (ValueError, OverflowError, OSError):
        return None  # a forged time


def _event(task: TaskView, event_id: str, event: str, status: str, at_ms: int, **more: Any) -> TaskEvent:
    data = {
        "id": id_text(task.id),
        "name": task.name,
        "directory": task.directory,
        "status": status,
        "at": rfc3339(at_ms),
        **more,
    }
    return TaskEvent(event_id, event, data)
