"""POST /tasks and POST /tasks/batch: from a body to a record that Kafka has acknowledged, then 202.

The hot path: handlers take the raw request, since the framework's own parsing costs more than all of ours. Problems are
raised; Kafka being away is 503, at once when that is known and within the sender's time limit when it is not.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.http.problems import Problem
from gateway.routes.dependencies import Dependencies, parts_of
from gateway.submission import Prepared, too_large
from gateway.view.projection import TaskView, id_bytes
from headrace.contract.submission import MAX_SUBMISSION_BYTES
from headrace.errors import Retryable

router = APIRouter()

MAX_BATCH_LINES = 100_000  # the answers to a call are held until its body has been read
_WINDOW_LINES = 250  # validated between two turns of the event loop
_WINDOW_BYTES = 8 << 20  # far below the sender's queue, so that sending never blocks the loop
# Up to here a body that is too large is read and dropped: a connection that is closed with bytes on their way is reset,
# and the client would never see why.
_DRAINED_BYTES = 8 << 20
_KEY_KEPT_MS = 24 * 3600 * 1000  # how long an Idempotency-Key stands for its task
_SIZE_ONLY = MAX_SUBMISSION_BYTES + 1


@router.post("/tasks", status_code=202)
async def submit(request: Request) -> Response:
    """Submits one task."""
    parts, began = parts_of(request), time.perf_counter()
    try:
        body = await read_body(request, "application/json")
        prepared = await _prepare(parts, body, request)
        prepared = await _send(parts, prepared)
    except Problem as e:
        parts.metrics.submitted.labels(e.type).inc()
        raise
    parts.metrics.submitted.labels("accepted").inc()
    parts.metrics.submit_seconds.observe(time.perf_counter() - began)
    return _accepted(parts, prepared)


async def _prepare(parts: Dependencies, body: bytes, request: Request) -> Prepared:
    headers = request.headers
    try:
        return parts.submissions.prepare(body, headers)
    except Problem as e:
        if e.type not in ("unknown-kind", "invalid-payload"):
            raise
    # A kind announced a moment ago, here or anew with another schema: read what there is before saying no.
    await parts.read_kinds()
    return parts.submissions.prepare(body, headers)


async def _send(parts: Dependencies, prepared: Prepared) -> Prepared:
    """Sends it, unless its Idempotency-Key has been here within a day; Problem when the body was another one then.

    Returns it with the id that the key stands for.
    """
    if prepared.digest:
        prepared, known = await _under_key(parts, prepared)
        if known:
            return prepared
    if parts.reach.away:
        raise Problem("kafka-unavailable", parts.reach.away)
    try:
        place = await asyncio.wrap_future(parts.sender.send(prepared.record))
    except Retryable as e:
        parts.reach.lost(str(e))
        raise Problem("kafka-unavailable", str(e)) from None
    parts.acknowledged.add(prepared.id, *place)
    if prepared.digest:  # two gateways may have sent at once: the first record in the log decides for both
        await _under_key(parts, prepared)
    return prepared


async def _under_key(parts: Dependencies, prepared: Prepared) -> tuple[Prepared, bool]:
    """With the id that its key stands for now, and whether that task is there; Problem when its body was another."""
    while True:
        row = parts.store.row(id_bytes(prepared.id))
        if row is None or not _is_over(row):
            await parts.read_on(prepared.id)
            row = parts.store.row(id_bytes(prepared.id))
        if row is None:
            return prepared, False
        if not _is_over(row):
            break
        prepared = prepared.under_reused_key()
    if row.digest and row.digest != prepared.digest:
        raise Problem(
            "idempotency-conflict", "this Idempotency-Key was used with another body: use a new key for a new task"
        )
    return prepared, True


def _is_over(row: TaskView) -> bool:
    """Whether the day is over for which a key stands for that task. By Kafka's time of its submission."""
    return 0 < row.submitted_ms < time.time() * 1000 - _KEY_KEPT_MS


def _accepted(parts: Dependencies, prepared: Prepared) -> Response:
    status = "queued"
    if prepared.digest and (row := parts.store.row(id_bytes(prepared.id))):
        status = row.status
    path = f"/tasks/{prepared.id}"
    body = {
        "id": prepared.id,
        "name": prepared.submission.name,
        "directory": prepared.submission.directory,
        "status": status,
        "links": {"self": path, "events": f"{path}/events", "result": f"{path}/result"},
    }
    return Response(orjson.dumps(body), 202, {"Location": path}, "application/json")


@router.post("/tasks/batch")
async def submit_batch(request: Request) -> Response:
    """Submits a task a line: NDJSON in, and NDJSON out with an id or an error for each line, in order."""
    parts = parts_of(request)
    _check_type(request, ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"))
    if parts.reach.away:
        raise Problem("kafka-unavailable", parts.reach.away)
    answers: list[bytes] = []
    window: list[bytes] = []
    size = 0
    async for line in _lines(request):
        if not line.strip():
            continue
        window.append(line)
        size += len(line)
        if len(window) >= _WINDOW_LINES or size >= _WINDOW_BYTES:
            answers += await _submit_window(parts, window, request)
            window, size = [], 0
        if len(answers) + len(window) > MAX_BATCH_LINES:
            raise Problem(
                "too-large",
                f"a batch has at most {MAX_BATCH_LINES} lines; the first {len(answers)} have been submitted",
            )
    answers += await _submit_window(parts, window, request)
    return Response(b"".join(answers), 200, media_type="application/x-ndjson")


async def _submit_window(parts: Dependencies, lines: Sequence[bytes], request: Request) -> list[bytes]:
    """One answer a line. Everything is sent before anything is waited for."""
    sent: list[tuple[str, Future[Any]] | Problem] = []
    headers = {h: v for h, v in request.headers.items() if h != "idempotency-key"}
    for line in lines:
        try:
            prepared = parts.submissions.prepare(line, headers)
            sent.append((prepared.id, parts.sender.send(prepared.record)))
        except Problem as e:
            sent.append(e)
    answers = await asyncio.to_thread(lambda: [_answer(parts, s) for s in sent])
    return [orjson.dumps(a, option=orjson.OPT_APPEND_NEWLINE) for a in answers]


def _answer(parts: Dependencies, sent: "tuple[str, Future[Any]] | Problem") -> dict[str, Any]:
    problem = sent if isinstance(sent, Problem) else None
    if not isinstance(sent, Problem):
        try:
            sent[1].result()
        except Retryable as e:
            parts.reach.lost(str(e))
            problem = Problem("kafka-unavailable", str(e))
    parts.metrics.submitted.labels(problem.type if problem else "accepted").inc()
    return {"error": problem.to_json()} if problem else {"id": sent[0]}  # type: ignore[index]  # no Problem, so a pair


def _check_type(request: Request, allowed: Sequence[str]) -> None:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given not in allowed:
        raise Problem("unsupported-media-type", f"send Content-Type: {allowed[0]}, not {given or 'none'!r}")


async def read_body(request: Request, *types: str) -> bytes:
    """The whole body, of one of those types, but never more than a submission may have."""
    _check_type(request, types)
    if _declared(request) > _DRAINED_BYTES:
        raise too_large()
    pieces, size = [], 0
    try:
        async for piece in request.stream():
            size += len(piece)
            if size <= MAX_SUBMISSION_BYTES:
                pieces.append(piece)
            elif size > _DRAINED_BYTES:
                break
    except ClientDisconnect:
        raise Problem("bad-request", "the body ended early") from None
    if size > MAX_SUBMISSION_BYTES:
        raise too_large()
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _declared(request: Request) -> int:
    text = request.headers.get("content-length", "0")
    return int(text) if text.isdigit() else 0


async def _lines(request: Request) -> AsyncIterator[bytes]:
    """Lines of the body; of one that is too long only as much as shows that it is."""
    rest = b""
    try:
        async for piece in request.stream():
            lines = (rest + piece).split(b"\n")
            rest = lines.pop()
            for line in lines:
                yield line[:_SIZE_ONLY]
            if len(rest) > 2 * _SIZE_ONLY:
                rest = rest[:_SIZE_ONLY]
    except ClientDisconnect:
        raise Problem("bad-request", "the body ended early") from None
    if rest:
        yield rest[:_SIZE_ONLY]
