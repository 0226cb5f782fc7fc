"""GET /dead and POST /dead/redrive: the tasks that ended without a result, and how they are sent again.

A redrive is a new task: its id comes from the old one and a count, and a header says which task it was. What has been
redriven is passed over, unless `again` is asked for, so that repeating a call makes no second task. Raises Problem.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gateway.http.problems import Problem
from gateway.http.query import filter_of
from gateway.routes.dependencies import Dependencies, parts_of
from gateway.routes.submit import read_body
from gateway.routes.tasks import page_of
from gateway.submission import parse
from gateway.view.projection import TaskView, id_text, partition_and_offset
from headrace.contract.ids import id_of_redrive
from headrace.contract.records import Outgoing, Record, Source
from headrace.contract.submission import Submission
from headrace.errors import Invalid, Retryable, Undecodable

router = APIRouter()

MAX_REDRIVE = 10_000  # tasks a call; a larger set is redriven by calling again
_TEXTS = ("reason", "name", "directory", "status", "since", "until")


@dataclass(frozen=True, slots=True)
class RedriveRequest:
    """What a redrive call asks for."""

    dry_run: bool
    again: bool
    rate: float  # tasks a second, 0 = at once
    payload: dict[str, Any] | None  # in place of the one that failed


@router.get("/dead")
async def list_dead(request: Request) -> Response:
    """Dead letters, newest first, by reason, kind, directory and time."""
    return await page_of(parts_of(request), filter_of(request.query_params, dead=True), request)


@router.post("/dead/redrive")
async def redrive(request: Request) -> Response:
    """Sends the matching dead letters again, as new tasks."""
    parts = parts_of(request)
    asked = parse(await read_body(request, "application/json") or b"{}")
    if not isinstance(asked, dict):
        raise Problem("bad-request", "the body is a JSON object with filters and options")
    wish = _wish(asked)
    wanted = filter_of({k: str(asked[k]) for k in _TEXTS if asked.get(k)}, dead=True)
    rows = await asyncio.to_thread(parts.store.tasks, wanted, None, MAX_REDRIVE)
    counts = await asyncio.to_thread(parts.store.redrives, [r.id for r in rows])
    due = [r for r in rows if wish.again or not counts.get(r.id)]
    if wish.dry_run:
        return _json({"matched": len(rows), "redriven": 0, "would_redrive": len(due), "items": []})
    items = []
    for row in due:
        items.append(await _redrive_one(parts, row, counts.get(row.id, 0) + 1, wish))
        if wish.rate:
            await asyncio.sleep(1 / wish.rate)
    if items and "id" in items[-1]:
        await parts.read_on(items[-1]["id"])  # so that an identical call right after this one passes them over
    return _json({"matched": len(rows), "redriven": sum("id" in i for i in items), "items": items}, 202)


async def _redrive_one(parts: Dependencies, row: TaskView, count: int, wish: RedriveRequest) -> dict[str, Any]:
    old = id_text(row.id)
    try:
        partition, offset = partition_and_offset(row.ended_place)
        record = await asyncio.to_thread(parts.sources.read, Source("tasks.dead", partition, offset))
        if record is None or record.value is None:
            return {"redrive_of": old, "error": "Kafka no longer holds its dead letter"}
        value = _edited(record.value, wish.payload)
        new = id_of_redrive(old, count)
        await asyncio.wrap_future(
            parts.sender.send(Outgoing("tasks.normal", new.encode(), value, _headers(record, old)))
        )
    except (Undecodable, Invalid) as e:
        return {"redrive_of": old, "error": f"its submission cannot be sent again as it is: {e.detail}"}
    except Retryable as e:
        parts.reach.lost(str(e))
        raise Problem("kafka-unavailable", f"not all have been redriven: {e}; call again for the rest") from None
    return {"redrive_of": old, "id": new}


def _headers(record: Record, old: str) -> tuple[tuple[str, bytes], ...]:
    # The digest belongs to the Idempotency-Key of the old task, and an older redrive's mark to that redrive.
    kept = tuple((k, v) for k, v in record.foreign_headers if k not in ("redrive-of", "idempotency-digest"))
    return (("via", b"http"), ("redrive-of", old.encode()), *kept)


def _edited(raw: bytes, payload: dict[str, Any] | None) -> bytes:
    if payload is None:
        return raw
    Submission.decode(raw)
    value = orjson.dumps(orjson.loads(raw) | {"payload": payload})
    Submission.decode(value)
    return value


def _wish(asked: dict[str, Any]) -> RedriveRequest:
    rate, payload = asked.get("rate", 0), asked.get("payload")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 100_000:
        raise Problem(
            "bad-request", "rate is a number of tasks a second", [Invalid("a number of tasks a second", "/rate")]
        )
    if payload is not None and not isinstance(payload, dict):
        raise Problem(
            "bad-request", "payload is an object", [Invalid("an object, in place of the one that failed", "/payload")]
        )
    return RedriveRequest(asked.get("dry_run") is True, asked.get("again") is True, float(rate), payload)


def _json(body: object, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")
