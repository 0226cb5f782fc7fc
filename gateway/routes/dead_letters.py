"""GET /dead and POST /dead/redrive: lists the tasks that ended without a result, and submits them again.

A redrive is a new task. Its id is derived from the old id and a count, and a header names the old task. A task that was
redriven already is skipped unless `again` is set, so repeating a call makes no second task. Raises Problem.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from headrace.contract.ids import id_of_redrive
from headrace.contract.records import Outgoing, Record, Source
from headrace.contract.submission import Submission
from headrace.errors import Invalid, Retryable, Undecodable

from ..http.problems import Problem
from ..http.query import parse_filter
from ..http.responses import json_response
from ..submission import parse_json
from ..view.projection import TaskView, id_text, partition_and_offset
from .dependencies import Dependencies, dependencies_of
from .submit import read_body
from .tasks import task_page

router = APIRouter()

MAX_REDRIVE = 10_000  # tasks for each call; call again for more
_FILTER_FIELDS = ("reason", "name", "directory", "status", "since", "until")


@dataclass(frozen=True, slots=True)
class RedriveRequest:
    """The options of a redrive."""

    dry_run: bool
    again: bool
    rate: float  # tasks a second, 0 = no limit
    payload: dict[str, Any] | None  # replaces the old payload


@router.get("/dead")
async def list_dead(request: Request) -> Response:
    """Dead letters, newest first, filtered by reason, kind, directory and time."""
    return await task_page(dependencies_of(request), parse_filter(request.query_params, dead=True), request)


@router.post("/dead/redrive")
async def redrive(request: Request) -> Response:
    """Submits the tasks of the matching dead letters again, as new tasks."""
    deps = dependencies_of(request)
    body = parse_json(await read_body(request, "application/json") or b"{}")
    if not isinstance(body, dict):
        raise Problem("bad-request", "the body must be a JSON object with filters and options")
    options = _parse_options(body)
    wanted = parse_filter({k: str(body[k]) for k in _FILTER_FIELDS if body.get(k)}, dead=True)
    tasks = await asyncio.to_thread(deps.store.list_tasks, wanted, None, MAX_REDRIVE)
    counts = await asyncio.to_thread(deps.store.redrive_counts, [t.id for t in tasks])
    due = [t for t in tasks if options.again or not counts.get(t.id)]
    if options.dry_run:
        return json_response({"matched": len(tasks), "redriven": 0, "would_redrive": len(due), "items": []})
    items = []
    for task in due:
        items.append(await _redrive_one(deps, task, counts.get(task.id, 0) + 1, options))
        if options.rate:
            await asyncio.sleep(1 / options.rate)
    if items and "id" in items[-1]:
        await deps.catch_up(items[-1]["id"])  # so that an identical call right after this one skips them
    return json_response({"matched": len(tasks), "redriven": sum("id" in i for i in items), "items": items}, 202)


async def _redrive_one(deps: Dependencies, task: TaskView, count: int, options: RedriveRequest) -> dict[str, Any]:
    old = id_text(task.id)
    try:
        partition, offset = partition_and_offset(task.ended_place)
        record = await asyncio.to_thread(deps.source_reader.read_record, Source("tasks.dead", partition, offset))
        if record is None or record.value is None:
            return {"redrive_of": old, "error": "Kafka no longer holds the dead letter: submit a new task instead"}
        value = _replace_payload(record.value, options.payload)
        new = id_of_redrive(old, count)
        await asyncio.wrap_future(
            deps.sender.send(Outgoing("tasks.normal", new.encode(), value, _headers(record, old)))
        )
    except (Undecodable, Invalid) as e:
        return {"redrive_of": old, "error": f"the submission cannot be redriven: {e.detail}"}
    except Retryable as e:
        deps.broker_probe.report_failure(str(e))
        raise Problem("kafka-unavailable", f"not all tasks were redriven: {e}; call again for the rest") from None
    return {"redrive_of": old, "id": new}


def _headers(record: Record, old: str) -> tuple[tuple[str, bytes], ...]:
    # The digest belongs to the old task's Idempotency-Key, and an existing redrive-of to an earlier redrive.
    kept = tuple((k, v) for k, v in record.foreign_headers if k not in ("redrive-of", "idempotency-digest"))
    return (("via", b"http"), ("redrive-of", old.encode()), *kept)


def _replace_payload(raw: bytes, payload: dict[str, Any] | None) -> bytes:
    if payload is None:
        return raw
    Submission.decode(raw)
    value = orjson.dumps(orjson.loads(raw) | {"payload": payload})
    Submission.decode(value)
    return value


def _parse_options(body: dict[str, Any]) -> RedriveRequest:
    rate, payload = body.get("rate", 0), body.get("payload")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 100_000:
        detail = "rate must be a number of tasks a second, from 0 to 100000"
        raise Problem("bad-request", detail, [Invalid(detail, "/rate")])
    if payload is not None and not isinstance(payload, dict):
        detail = "payload must be an object: it replaces the payload of the old task"
        raise Problem("bad-request", detail, [Invalid(detail, "/payload")])
    return RedriveRequest(body.get("dry_run") is True, body.get("again") is True, float(rate), payload)
