"""POST /tasks and POST /tasks/batch: checks a body, sends its record, and answers 202 once Kafka has acknowledged it.

The hot path: handlers read the raw request, because the framework's parsing costs more than all of theirs. Raises
Problem. When Kafka is unavailable the answer is 503, at once if the probe knows, else within the sender's time limit.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence

import orjson
from starlette.requests import Request
from starlette.responses import Response

from headrace.errors import Retryable

from ..http.body import read_body, read_lines
from ..http.problems import Problem
from ..http.router import Router
from ..kafka.receipts import Fate
from ..submission import PreparedSubmission
from ..view.projection import TaskView, id_bytes
from .dependencies import Dependencies, dependencies_of

router = Router()

_LINE_TYPES = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")
MAX_BATCH_LINES = 100_000  # the answers are kept in memory until the whole body has been read
_WINDOW_LINES = 250  # checked in one turn of the event loop
_WINDOW_BYTES = 8 << 20  # what a request keeps on its way to Kafka
_KEY_KEPT_MS = 24 * 3600 * 1000  # how long an Idempotency-Key stands for its task


@router.post("/tasks", status_code=202)
async def submit(request: Request) -> Response:
    """Submits one task."""
    deps, began = dependencies_of(request), time.perf_counter()
    try:
        body = await read_body(request, "application/json")
        prepared = await _prepare(deps, body, request)
        prepared = await _send(deps, prepared)
    except Problem as e:
        deps.metrics.submitted.labels(e.type).inc()
        raise
    deps.metrics.submitted.labels("accepted").inc()
    deps.metrics.submit_seconds.observe(time.perf_counter() - began)
    return _accepted(deps, prepared)


async def _prepare(deps: Dependencies, body: bytes, request: Request) -> PreparedSubmission:
    headers = request.headers
    try:
        return deps.submissions.prepare(body, headers)
    except Problem as e:
        if not _may_be_outdated(e):
            raise
    await deps.catch_up_kinds()
    return deps.submissions.prepare(body, headers)


async def _send(deps: Dependencies, prepared: PreparedSubmission) -> PreparedSubmission:
    """Sends the record, unless its Idempotency-Key already stands for a task; returns it under that task's id.

    Problem idempotency-conflict when the key was used with another body, or kafka-unavailable.
    """
    if prepared.digest:
        prepared, known = await _resolve_key(deps, prepared)
        if known:
            return prepared
    if deps.broker_probe.unavailable:
        raise Problem("kafka-unavailable", deps.broker_probe.unavailable)
    [fate] = await deps.receipts.send([prepared.record])
    if isinstance(fate, BaseException):
        raise _unsent(deps, fate)
    deps.recent_submissions.add_submission(prepared.id, prepared.submission, prepared.digest, fate)
    if fate[:2] not in deps.projector.places:
        deps.projector.look_soon()
    if prepared.digest:  # two gateways may have sent at once: the first record in the log decides
        await _resolve_key(deps, prepared)
    return prepared


async def _resolve_key(deps: Dependencies, prepared: PreparedSubmission) -> tuple[PreparedSubmission, bool]:
    """(the submission under the id that its key stands for now, whether that task exists); Problem as `_send`."""
    while True:
        task = deps.store.get_task(id_bytes(prepared.id))
        if task is None or not _key_has_expired(task):
            await deps.catch_up(prepared.id)
            task = deps.store.get_task(id_bytes(prepared.id))
        if task is None and not deps.store.is_forgotten(id_bytes(prepared.id)):
            return prepared, False
        if task is not None and not _key_has_expired(task):
            break
        prepared = prepared.with_next_id()
    if task.digest and task.digest != prepared.digest:
        raise Problem(
            "idempotency-conflict", "this Idempotency-Key was used with another body: use a new key for a new task"
        )
    return prepared, True


def _key_has_expired(task: TaskView) -> bool:
    """Whether the task, by Kafka's time of its submission, is too old for its Idempotency-Key to stand for it."""
    return 0 < task.submitted_ms < time.time() * 1000 - _KEY_KEPT_MS


def _accepted(deps: Dependencies, prepared: PreparedSubmission) -> Response:
    status = "queued"
    if prepared.digest and (task := deps.store.get_task(id_bytes(prepared.id))):
        status = task.status
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
    """Submits one task for each line of NDJSON; the answer has an id or an error for each line, in order."""
    deps = dependencies_of(request)
    if deps.broker_probe.unavailable:
        raise Problem("kafka-unavailable", deps.broker_probe.unavailable)
    answers: list[bytes] = []
    try:
        await _submit_lines(deps, request, answers)
    except Problem as e:
        if not answers:
            raise
        detail = f"{e.detail}; the first {len(answers)} lines have their answers here: send the rest in another batch"
        given = [orjson.Fragment(a.rstrip()) for a in answers]
        raise Problem(e.type, detail, headers=e.headers, answers=given) from None
    return Response(b"".join(answers), 200, media_type="application/x-ndjson")


async def _submit_lines(deps: Dependencies, request: Request, answers: list[bytes]) -> None:
    """Adds the answer for each line of the body, also when it raises a Problem halfway."""
    window: list[bytes] = []
    size = 0
    async for line in read_lines(request, *_LINE_TYPES):
        if not line.strip():
            continue
        if len(answers) + len(window) >= MAX_BATCH_LINES:
            answers += await _submit_window(deps, window, request)
            raise Problem("too-large", f"a batch may have at most {MAX_BATCH_LINES} lines")
        window.append(line)
        size += len(line)
        if len(window) >= _WINDOW_LINES or size >= _WINDOW_BYTES:
            answers += await _submit_window(deps, window, request)
            window, size = [], 0
    answers += await _submit_window(deps, window, request)


async def _submit_window(deps: Dependencies, lines: Sequence[bytes], request: Request) -> list[bytes]:
    """One answer for each line. Sends all records before it waits for any."""
    headers = {h: v for h, v in request.headers.items() if h != "idempotency-key"}
    prepared = [_prepare_line(deps, line, headers) for line in lines]
    if any(_may_be_outdated(p) for p in prepared):
        try:
            await deps.catch_up_kinds()
        except Problem as e:
            prepared = [e if _may_be_outdated(p) else p for p in prepared]
        else:
            prepared = [
                _prepare_line(deps, line, headers) if _may_be_outdated(p) else p
                for line, p in zip(lines, prepared, strict=True)
            ]
    fates = iter(await deps.receipts.send([p.record for p in prepared if not isinstance(p, Problem)]))
    answers = [p if isinstance(p, Problem) else _settled(deps, p, next(fates)) for p in prepared]
    refused = Counter(a.type for a in answers if isinstance(a, Problem))
    for answer, count in (refused | {"accepted": len(answers) - refused.total()}).items():
        deps.metrics.submitted.labels(answer).inc(count)
    return [a if isinstance(a, bytes) else orjson.dumps({"error": a.to_json()}) + b"\n" for a in answers]


def _prepare_line(deps: Dependencies, line: bytes, headers: Mapping[str, str]) -> PreparedSubmission | Problem:
    try:
        return deps.submissions.prepare(line, headers)
    except Problem as e:
        return e


def _may_be_outdated(prepared: PreparedSubmission | Problem) -> bool:
    """Whether it was refused because of its kind, which may have been announced a moment ago, or with a new schema."""
    return isinstance(prepared, Problem) and prepared.type in ("unknown-kind", "invalid-payload")


def _settled(deps: Dependencies, prepared: PreparedSubmission, fate: Fate) -> bytes | Problem:
    """A line's answer with the id of its task, or why its record may not be in the log."""
    if isinstance(fate, BaseException):
        return _unsent(deps, fate)
    return b'{"id":"%b"}\n' % prepared.id.encode()


def _unsent(deps: Dependencies, error: BaseException) -> Problem:
    if isinstance(error, Retryable):
        deps.broker_probe.report_failure(error)
    return Problem("kafka-unavailable", str(error))
