"""GET /tasks, GET /tasks/{id} and DELETE /tasks/{id}: lists tasks, shows one, and cancels one.

A cancel is a command on `tasks.control`, which makes workers kill or skip the task, and then an outcome on `results`,
where the storekeeper alone decides which outcome came first. 202 means that both are in the log. Raises Problem.
"""

import asyncio
import time
import uuid
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from headrace.contract.cluster import Cancel
from headrace.contract.outcome import Outcome
from headrace.contract.records import Source
from headrace.contract.states import Reason, Status
from headrace.contract.task import Task
from headrace.errors import Retryable, Undecodable

from ..http.problems import Problem
from ..http.query import encode_cursor, parse_cursor, parse_filter, parse_limit
from ..http.responses import json_response
from ..http.router import Router, takes
from ..view.projection import TaskView, id_text
from ..view.store import StoredProgress, TaskFilter
from ..view.task_events import result_json, rfc3339
from .dependencies import Dependencies, dependencies_of

router = Router()

_BOOT = str(uuid.uuid4())  # this gateway's, in the outcomes of cancels
_CANCEL_WAIT_S = 2.0


@router.get("/tasks", openapi_extra=takes("status", "name", "directory", "since", "until", "limit", "cursor"))
async def list_tasks(request: Request) -> Response:
    """Tasks, newest first, a page at a time."""
    return await task_page(dependencies_of(request), parse_filter(request.query_params), request)


async def task_page(deps: Dependencies, wanted: TaskFilter, request: Request) -> Response:
    """One page of the matching tasks, with the cursor of the next page. Problem catching-up: see `require_whole`."""
    await deps.require_whole()
    limit, before = parse_limit(request.query_params), parse_cursor(request.query_params)
    tasks = await asyncio.to_thread(deps.store.list_tasks, wanted, before, limit + 1)
    more = len(tasks) > limit
    tasks = tasks[:limit]
    next_cursor = encode_cursor(tasks[-1].submitted_ms, tasks[-1].id) if more else None
    return json_response({"items": [summary(t) for t in tasks], "next": next_cursor})


@router.get("/tasks/{task_id}")
async def get_task(task_id: str, request: Request) -> Response:
    """Everything that the gateway knows of one task."""
    deps = dependencies_of(request)
    task = await deps.find_task(task_id)
    return json_response(task_json(task, deps.store.last_progress(task.id)))


@router.delete("/tasks/{task_id}", status_code=202)
async def cancel_task(task_id: str, request: Request) -> Response:
    """Cancels a task that has not ended."""
    deps = dependencies_of(request)
    task = await deps.find_task(task_id)
    if not task.status.terminal:
        try:
            await asyncio.wrap_future(deps.sender.send(Cancel(id_text(task.id)).encode()))
            await _report_cancelled(deps, task)
        except Retryable as e:
            deps.broker_probe.report_failure(e)
            raise Problem("kafka-unavailable", f"the task may not have been cancelled: {e}; try again") from None
        # The arbiter decides within milliseconds: wait for it, so that the answer is the final state.
        with deps.attention.on(deps.event_places(id_text(task.id))):
            await deps.notifier.wait_until(lambda: _current_status(deps, task).terminal, _CANCEL_WAIT_S)
        status = _current_status(deps, task)
        if status in (Status.COMPLETED, Status.FAILED):
            raise _already_ended(status)
        return json_response(
            {"id": id_text(task.id), "status": status, "links": {"self": f"/tasks/{id_text(task.id)}"}}, 202
        )
    raise _already_ended(task.status)


async def _report_cancelled(deps: Dependencies, task: TaskView) -> None:
    """Sends the outcome with the original submission. When that is trimmed, the node that kills the task reports it."""
    try:
        record = (
            await asyncio.to_thread(deps.source_reader.read_record, Source.parse(task.source)) if task.source else None
        )
        if record is None:
            return
        submitted = Task.from_record(record)
    except Undecodable:
        return
    outcome = Outcome(
        id=id_text(task.id),
        outcome="cancelled",
        value=submitted.raw,
        attempt=max([submitted.attempt, *(a.attempt for a in task.attempts)]),
        boot=_BOOT,
        node="",
        source=submitted.source,
        submitted_ms=task.submitted_ms,
        name=task.name,
        directory=task.directory,
        reason=Reason.CANCELLED,
        error="cancelled by a user",
        started_ms=task.started_ms,
        ended_ms=int(time.time() * 1000),
        ledger=submitted.ledger,
        foreign=submitted.foreign,
    )
    await asyncio.wrap_future(deps.sender.send(outcome.encode()))


def _current_status(deps: Dependencies, task: TaskView) -> Status:
    found = deps.store.get_task(task.id)
    return found.status if found else task.status


def _already_ended(status: Status) -> Problem:
    return Problem("already-ended", f"the task is already {status} and cannot be cancelled", task_status=status)


def summary(task: TaskView) -> dict[str, Any]:
    """A task as the lists show it."""
    return {
        "id": id_text(task.id),
        "name": task.name,
        "directory": task.directory,
        "status": task.status,
        "received_at": rfc3339(task.submitted_ms),
        "started_at": rfc3339(task.started_ms),
        "ended_at": rfc3339(task.ended_ms),
        "result": result_json(task),
        "error": task.error or None,
    }


def task_json(task: TaskView, progress: StoredProgress | None) -> dict[str, Any]:
    """A task with its attempts, its last progress and its origin."""
    attempts = [
        {
            "attempt": a.attempt,
            "node": a.node,
            "started_at": rfc3339(a.started_ms),
            "ended_at": rfc3339(a.ended_ms),
            "cause": a.cause or None,
            "detail": a.detail or None,
        }
        for a in task.attempts
    ]
    last = progress and {
        "attempt": progress.attempt,
        "fraction": progress.fraction,
        "message": progress.message,
        "at": rfc3339(progress.at_ms),
    }
    path = f"/tasks/{id_text(task.id)}"
    more = {
        "attempts": attempts,
        "progress": last,
        "reason": task.reason or None,
        "via": task.via or None,
        "source": task.source or None,
        "queued_ms": task.queued_ms,
        "duration_ms": task.duration_ms,
        "redrive_of": task.redrive_of or None,
        "links": {"self": path, "events": f"{path}/events", "result": f"{path}/result"},
    }
    return summary(task) | more
