"""GET /dead and POST /dead/redrive: lists the tasks that ended without a result, and submits them again.

A redrive is a new task. Its id is derived from the old id and a count, and a note on `tasks.redriven`, where no
submitter may write, names both. A task that was redriven already is skipped unless `again` is set, so repeating a call
makes no second task; nor does a call after a crash between task and note, as the id is the same. A call answers within
seconds: when tasks are left, the answer has a cursor that the next call goes on from. Raises Problem.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from headrace.contract.cluster import Redriven
from headrace.contract.exact_json import encode_json, parse_json
from headrace.contract.ids import id_of_redrive
from headrace.contract.records import Outgoing, Record, Source
from headrace.contract.states import Status
from headrace.contract.submission import Submission
from headrace.errors import Invalid, Retryable, Undecodable

from ..http.body import read_body
from ..http.problems import Problem
from ..http.query import encode_cursor, parse_filter
from ..http.responses import json_response
from ..http.router import Router, takes
from ..submission import parse_body
from ..view.projection import TaskView, id_bytes, id_text, partition_and_offset
from .dependencies import FORGOTTEN, Dependencies, dependencies_of
from .redrive_request import RedriveRequest, parse_redrive
from .tasks import task_page

router = Router()

MAX_REDRIVE = 10_000  # tasks that a call looks at
REDRIVE_S = 15.0  # a call sends no further task after so long: half of what clients usually wait for an answer
_VIEW_WAIT_S = 2.0
_MOST_TAKEN = 100  # ids of a task's redrives that other tasks may have


@router.get("/dead", openapi_extra=takes("reason", "status", "name", "directory", "since", "until", "limit", "cursor"))
async def list_dead(request: Request) -> Response:
    """Dead letters, newest first, filtered by reason, kind, directory and time."""
    return await task_page(dependencies_of(request), parse_filter(request.query_params, dead=True), request)


@router.post("/dead/redrive")
async def redrive(request: Request) -> Response:
    """Submits the tasks of the matching dead letters again, as new tasks."""
    deps = dependencies_of(request)
    wanted = parse_redrive(parse_body(await read_body(request, "application/json") or b"{}"))
    await deps.require_whole()  # else it would not know which were redriven already
    tasks, items, more = await asyncio.to_thread(_find_dead, deps, wanted)
    counts = await asyncio.to_thread(deps.store.redrive_counts, [t.id for t in tasks])
    due = [(t, counts.get(t.id, 0) + 1) for t in tasks if wanted.again or not counts.get(t.id)]
    matched, after_all = len(tasks), _cursor(tasks[-1]) if more else None
    if wanted.dry_run:
        body = {"matched": matched, "redriven": 0, "would_redrive": len(due), "items": items, "next": after_all}
        return json_response(body)
    run = _Redrive(deps, wanted, items)
    await run.send_all(due)
    left = len(due) - run.handled
    return json_response(
        {"matched": matched, "next": run.next_cursor if left else after_all, "left": left} | run.to_json(), 202
    )


def _find_dead(deps: Dependencies, wanted: RedriveRequest) -> tuple[list[TaskView], list[dict[str, Any]], bool]:
    """(dead tasks, newest first; errors for named tasks that are not dead; whether more tasks match)."""
    if not wanted.ids:
        tasks = deps.store.list_tasks(wanted.filter, wanted.cursor, MAX_REDRIVE + 1)
        return tasks[:MAX_REDRIVE], [], len(tasks) > MAX_REDRIVE
    tasks, errors = [], []
    for task_id in wanted.ids:
        task = deps.store.get_task(id_bytes(task_id))
        if task is None and deps.store.is_forgotten(id_bytes(task_id)):
            errors.append({"redrive_of": task_id, "error": FORGOTTEN, "type": "/problems/task-forgotten"})
        elif task is None:
            error = "no task has this id: list dead letters with GET /dead"
            errors.append({"redrive_of": task_id, "error": error, "type": "/problems/no-such-task"})
        elif task.status not in (Status.FAILED, Status.CANCELLED):
            errors.append({"redrive_of": task_id, "error": f"the task is {task.status}: only dead ones are redriven"})
        elif wanted.cursor is None or (task.submitted_ms, task.id) < wanted.cursor:
            tasks.append(task)
    return sorted(tasks, key=lambda t: (t.submitted_ms, t.id), reverse=True), errors, False


def _cursor(task: TaskView) -> str:
    return encode_cursor(task.submitted_ms, task.id)


@dataclass(slots=True)
class _Redrive:
    """One call's redrives: `items` has an answer for each task, `handled` counts those that were tried."""

    deps: Dependencies
    wanted: RedriveRequest
    items: list[dict[str, Any]]
    handled: int = 0
    next_cursor: str | None = None
    wait_s: float = 0.0  # until the next task is due by the rate, when tasks are left

    def to_json(self) -> dict[str, Any]:
        redriven = sum("id" in i for i in self.items)
        return {"redriven": redriven, "items": self.items, "wait_s": round(self.wait_s, 3)}

    async def send_all(self, due: list[tuple[TaskView, int]]) -> None:
        """Redrives one task after the other at the rate, until the call's time is over.

        Problem kafka-unavailable, which lists the tasks that were redriven before.
        """
        began = time.monotonic()
        ends: dict[tuple[str, int], int] = {}
        if due:
            await self.deps.catch_up_kinds()
        for number, (task, count) in enumerate(due):
            due_at = began + (number / self.wanted.rate if self.wanted.rate else 0.0)
            if number and max(due_at, time.monotonic()) > began + REDRIVE_S:
                self.wait_s = max(0.0, due_at - time.monotonic())
                break
            await asyncio.sleep(due_at - time.monotonic())
            await self._send(task, count, ends)
            self.handled, self.next_cursor = number + 1, _cursor(task)
        # So that the same call right after this one skips them.
        await self.deps.wait_read(ends, _VIEW_WAIT_S)

    async def _send(self, task: TaskView, count: int, ends: dict[tuple[str, int], int]) -> None:
        old = id_text(task.id)
        try:
            outgoing = await _new_record(self.deps, task, count, self.wanted.payload)
            new = (outgoing.key or b"").decode()
            for record in (
                outgoing,
                Redriven(new, old).encode(),
            ):  # never the note alone: it would hide the dead letter
                topic, partition, offset = await asyncio.wrap_future(self.deps.sender.send(record))
                ends[topic, partition] = max(offset + 1, ends.get((topic, partition), 0))
        except (Undecodable, Invalid, Problem) as e:
            self.items.append({"redrive_of": old, "error": f"the submission cannot be redriven: {e.detail}"})
        except Retryable as e:
            self.deps.broker_probe.report_failure(e)
            raise Problem(
                "kafka-unavailable",
                f"not all tasks were redriven: {e}; the same call again redrives the rest",
                next=self.next_cursor,
                **self.to_json(),
            ) from None
        else:
            self.items.append({"redrive_of": old, "id": new})


async def _new_record(deps: Dependencies, task: TaskView, count: int, payload: dict[str, Any] | None) -> Outgoing:
    """The record of the new task. Undecodable, Invalid or Problem when it cannot be one; Retryable."""
    partition, offset = partition_and_offset(task.ended_place)
    record = await asyncio.to_thread(deps.source_reader.read_record, Source("tasks.dead", partition, offset))
    if record is None or record.value is None:
        raise Invalid("Kafka no longer holds the dead letter: submit a new task instead")
    value = record.value if payload is None else _replace_payload(record.value, payload)
    topic = deps.submissions.check(Submission.decode(value))
    old = id_text(task.id)
    new = await asyncio.to_thread(_next_id, deps, old, count, value)
    return Outgoing(topic, new.encode(), value, _headers(record, old))


def _next_id(deps: Dependencies, old: str, count: int, value: bytes) -> str:
    """The id of the next redrive. Invalid when submitters have taken all that come into question; Retryable.

    Anybody can derive these ids, and submit a task of another kind under one: a redrive would be taken for its repeat.
    A task with the same submission is an earlier call's, which did not come to its note.
    """
    for number in range(count, count + _MOST_TAKEN):
        new = id_of_redrive(old, number)
        taken = deps.store.get_task(id_bytes(new))
        if taken is None:
            if deps.store.is_forgotten(id_bytes(new)):
                continue
            return new
        record = deps.source_reader.read_record(Source.parse(taken.source)) if taken.source else None
        if record is not None and record.value == value:
            return new
    raise Invalid(f"the next {_MOST_TAKEN} ids of its redrives are taken by other tasks: submit a new task instead")


def _headers(record: Record, old: str) -> tuple[tuple[str, bytes], ...]:
    # The digest belongs to the old task's Idempotency-Key.
    kept = tuple((k, v) for k, v in record.foreign_headers if k != "idempotency-digest")
    return (("via", b"http"), ("redrive-of", old.encode()), *kept)


def _replace_payload(raw: bytes, payload: dict[str, Any]) -> bytes:
    Submission.decode(raw)
    return encode_json(parse_json(raw) | {"payload": payload})
