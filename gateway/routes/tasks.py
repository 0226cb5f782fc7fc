"""GET /tasks, GET /tasks/{id} and DELETE /tasks/{id}: what is known of tasks, and how one is cancelled.

A cancel is a command on `tasks.control` (which kills and skips) and then an outcome on `results`, where the storekeeper
alone decides what came first; 202 says that both are in the log. Raises Problem.
"""

import asyncio
import time
import uuid
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gateway.http.problems import Problem
from gateway.http.query import cursor_of, encode_cursor, filter_of, limit_of
from gateway.routes.dependencies import Dependencies, parts_of
from gateway.view.projection import TaskView, id_text
from gateway.view.store import Filter, StoredProgress
from gateway.view.task_events import moment, result_of
from headrace.contract.cluster import Cancel
from headrace.contract.outcome import Outcome
from headrace.contract.records import Source
from headrace.contract.states import Reason, Status
from headrace.contract.task import Task
from headrace.errors import Retryable, Undecodable

router = APIRouter()

_BOOT = str(uuid.uuid4())  # this gateway's, as the one who judged
_CANCEL_WAIT_S = 2.0


@router.get("/tasks")
async def list_tasks(request: Request) -> Response:
    """Tasks newest first, a page at a time."""
    return await page_of(parts_of(request), filter_of(request.query_params), request)


async def page_of(parts: Dependencies, wanted: Filter, request: Request) -> Response:
    """One page of the tasks that the filter wants, with the cursor of the next."""
    limit, before = limit_of(request.query_params), cursor_of(request.query_params)
    rows = await asyncio.to_thread(parts.store.tasks, wanted, before, limit + 1)
    more = len(rows) > limit
    rows = rows[:limit]
    following = encode_cursor(rows[-1].submitted_ms, rows[-1].id) if more else None
    return _json({"items": [summary(r) for r in rows], "next": following})


@router.get("/tasks/{task_id}")
async def get_task(task_id: str, request: Request) -> Response:
    """All that is known of one task."""
    parts = parts_of(request)
    row = await parts.find(task_id)
    return _json(task_json(row, parts.store.last_progress(row.id)))


@router.delete("/tasks/{task_id}", status_code=202)
async def cancel_task(task_id: str, request: Request) -> Response:
    """Cancels a task that has not ended."""
    parts = parts_of(request)
    row = await parts.find(task_id)
    if not row.status.terminal:
        try:
            await asyncio.wrap_future(parts.sender.send(Cancel(id_text(row.id)).encode()))
            await _report_cancelled(parts, row)
        except Retryable as e:
            parts.reach.lost(str(e))
            raise Problem("kafka-unavailable", f"the cancel may not have been taken: {e}") from None
        # The arbiter is a few milliseconds away: wait for its word, so that the answer is the state that all will see.
        await parts.feed.until(lambda: _status(parts, row).terminal, _CANCEL_WAIT_S)
        status = _status(parts, row)
        if status in (Status.COMPLETED, Status.FAILED):
            raise _already_ended(status)
        return _json({"id": id_text(row.id), "status": status, "links": {"self": f"/tasks/{id_text(row.id)}"}}, 202)
    raise _already_ended(row.status)


async def _report_cancelled(parts: Dependencies, row: TaskView) -> None:
    """The outcome, with the submission as it came; where that is trimmed, the node that kills the task reports it."""
    try:
        record = await asyncio.to_thread(parts.sources.read, Source.parse(row.source)) if row.source else None
        if record is None:
            return
        task = Task.from_record(record)
    except Undecodable:
        return
    outcome = Outcome(
        id=id_text(row.id),
        outcome="cancelled",
        value=task.raw,
        attempt=max([task.attempt, *(a.attempt for a in row.attempts)]),
        boot=_BOOT,
        node="",
        source=task.source,
        submitted_ms=row.submitted_ms,
        name=row.name,
        directory=row.directory,
        reason=Reason.CANCELLED,
        error="cancelled by a user",
        started_ms=row.started_ms,
        ended_ms=int(time.time() * 1000),
        ledger=task.ledger,
        foreign=task.foreign,
    )
    await asyncio.wrap_future(parts.sender.send(outcome.encode()))


def _status(parts: Dependencies, row: TaskView) -> Status:
    found = parts.store.row(row.id)
    return found.status if found else row.status


def _already_ended(status: Status) -> Problem:
    return Problem("already-ended", f"the task is {status} already", task_status=status)


def summary(row: TaskView) -> dict[str, Any]:
    """A task as lists show it."""
    return {
        "id": id_text(row.id),
        "name": row.name,
        "directory": row.directory,
        "status": row.status,
        "received_at": moment(row.submitted_ms),
        "started_at": moment(row.started_ms),
        "ended_at": moment(row.ended_ms),
        "result": result_of(row),
        "error": row.error or None,
    }


def task_json(row: TaskView, progress: StoredProgress | None) -> dict[str, Any]:
    """A task with its attempts, its last progress and how it came here."""
    attempts = [
        {
            "attempt": a.attempt,
            "node": a.node,
            "started_at": moment(a.started_ms),
            "ended_at": moment(a.ended_ms),
            "cause": a.cause or None,
            "detail": a.detail or None,
        }
        for a in row.attempts
    ]
    last = progress and {
        "attempt": progress.attempt,
        "fraction": progress.fraction,
        "message": progress.message,
        "at": moment(progress.at_ms),
    }
    path = f"/tasks/{id_text(row.id)}"
    more = {
        "attempts": attempts,
        "progress": last,
        "reason": row.reason or None,
        "via": row.via or None,
        "source": row.source or None,
        "queued_ms": row.queued_ms,
        "duration_ms": row.duration_ms,
        "redrive_of": row.redrive_of or None,
        "links": {"self": path, "events": f"{path}/events", "result": f"{path}/result"},
    }
    return summary(row) | more


def _json(body: object, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json", headers={"Cache-Control": "no-store"})
