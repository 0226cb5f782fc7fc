"""GET /tasks/{id}/events and GET /events: Server-Sent Events, which any gateway resumes from Last-Event-ID.

A listener holds only its place: when woken it reads the store from there, and it reads nothing while its client is
slow. The id of an event is its place in the task's order on a task's own stream (`gateway.view.task_events`), and holds
all Kafka positions on the stream of all tasks (`gateway.view.position_vector`).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable

import orjson
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.requests import Request
from starlette.responses import Response

from headrace.errors import Retryable

from ..http.query import parse_filter
from ..http.router import Router, takes
from ..view import position_vector
from ..view.event_stream import EventStream
from ..view.event_topics import EVENT_TOPICS
from ..view.projection import id_bytes, id_text
from ..view.store import TaskFilter
from ..view.task_events import ENDED, TaskEvent, is_event_id, progress_offset, remaining_events
from .dependencies import Dependencies, dependencies_of

router = Router()

COMMENT_EVERY_S = 10.0  # keeps proxies and browsers from closing a quiet stream
_PAGE = 200  # events read from the store at a time
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_COMMENT = format_sse_event(comment="alive")


@router.get("/tasks/{task_id}/events")
async def task_events(task_id: str, request: Request) -> Response:
    """The past events of one task, then new ones as they happen, up to its terminal event."""
    deps = dependencies_of(request)
    task = await deps.find_task(task_id, fresh=False)
    after = request.headers.get("last-event-id", "")
    after = after if is_event_id(after) else ""
    if after == ENDED:
        return Response(status_code=204)  # stops a browser from reconnecting
    return EventSourceResponse(_stream_task(deps, id_text(task.id), after), headers=_HEADERS)


@router.get("/events", openapi_extra=takes("status", "name", "directory"))
async def all_events(request: Request) -> Response:
    """The events of all tasks from now on, or after Last-Event-ID.

    The header Last-Event-ID of the answer is the stream's begin: a client that heard no event yet resumes from there.
    """
    deps = dependencies_of(request)
    task_filter = parse_filter(request.query_params, times=False)
    last = request.headers.get("last-event-id", "")
    vector, first = position_vector.vector_of(await deps.event_ends()), b""
    if last:
        try:
            vector = position_vector.decode(last)
            for topic, partition in deps.projector.places:
                if topic in EVENT_TOPICS:
                    vector.setdefault((EVENT_TOPICS.index(topic), partition), 0)
            first = await _reset_lost_positions(deps, vector)
        except ValueError:
            reason = "Last-Event-ID is not an id of this stream: the stream goes on from now"
            first = _encode("reset", {"reason": reason}, position_vector.encode(vector))
    headers = _HEADERS | {"Last-Event-ID": position_vector.encode(vector)}
    return EventSourceResponse(_stream_all(deps, vector, task_filter, first), headers=headers)


async def _stream_task(deps: Dependencies, task_id: str, after: str) -> AsyncIterator[bytes]:
    key = id_bytes(task_id)
    places = deps.event_places(task_id)
    attention = deps.attention.on(places)
    with attention, deps.notifier.listen(key) as woken, deps.metrics.listeners.track_inprogress():
        await deps.refresh(places)  # else the terminal event could be read before an older one of another partition
        comment_at = time.monotonic() + COMMENT_EVERY_S
        while not deps.notifier.closed:
            woken.clear()
            events, more = _new_events(deps, key, after)
            if events:
                after = events[-1].id
                yield b"".join(_encode(e.event, e.data, e.id) for e in events)
            if after == ENDED:
                return
            if not more and not await _wait(woken, comment_at):
                comment_at = time.monotonic() + COMMENT_EVERY_S
                yield _COMMENT


def _new_events(deps: Dependencies, key: bytes, after: str) -> tuple[list[TaskEvent], bool]:
    """The events that follow `after`, and whether the store has more than were read."""
    task = deps.store.get_task(key)
    if task is None:
        return [], False
    reports = deps.store.progress_after(key, progress_offset(after), _PAGE)
    more = len(reports) == _PAGE
    return remaining_events(task, reports, after, more), more


async def _stream_all(
    deps: Dependencies, vector: position_vector.PositionVector, task_filter: TaskFilter, first: bytes
) -> AsyncIterator[bytes]:
    attention = deps.attention.on([place for place in deps.projector.places if place[0] in EVENT_TOPICS])
    with attention, deps.notifier.listen() as woken, deps.metrics.listeners.track_inprogress():
        yield first or _COMMENT  # at once, so that the client knows that it is connected
        stream: EventStream | None = None
        comment_at = time.monotonic() + COMMENT_EVERY_S
        while not deps.notifier.closed:
            woken.clear()
            snapshot = deps.projector.snapshot
            # A gateway that has read less than the one the client comes from must catch up before it can go on.
            if stream is None and position_vector.has_passed(vector, snapshot.positions):
                stream = await asyncio.to_thread(EventStream.resume, deps.store, vector, snapshot.seq, task_filter)
            pairs = stream.next_events(_PAGE) if stream else None
            if pairs:
                yield b"".join(_encode(e.event, e.data, position_vector.encode(v)) for e, v in pairs)
            if pairs is None and not await _wait(woken, comment_at):
                comment_at = time.monotonic() + COMMENT_EVERY_S
                yield _COMMENT


async def _wait(woken: asyncio.Event, until: float) -> bool:
    """True when woken, False when a comment is due."""
    try:
        await asyncio.wait_for(woken.wait(), max(0.0, until - time.monotonic()))
    except TimeoutError:
        return False
    return True


async def _reset_lost_positions(deps: Dependencies, vector: position_vector.PositionVector) -> bytes:
    """Moves positions that Kafka or the view no longer holds to the earliest ones; returns the event that says so.

    b"" when none was moved.
    """
    known = set(deps.projector.places)
    names = {(EVENT_TOPICS[t], p): (t, p) for t, p in vector if (EVENT_TOPICS[t], p) in known}
    try:
        starts, ends = await deps.broker_probe.start_offsets(names), await deps.broker_probe.end_offsets(names)
    except Retryable:
        return b""  # an error would end a browser's reconnecting; the store still has events to send
    pruned = await asyncio.to_thread(deps.store.pruned)
    starts = {n: max(start, min(pruned.get(names[n], 0), ends[n])) for n, start in starts.items()}
    lost = [(n, vector[k], starts[n]) for n, k in names.items() if not starts[n] <= vector[k] <= ends[n]]
    for name, _, start in lost:
        vector[names[name]] = start
    return _encode("reset", {"lost": _lost_json(lost)}, position_vector.encode(vector)) if lost else b""


def _lost_json(lost: Iterable[tuple[tuple[str, int], int, int]]) -> list[dict[str, object]]:
    return [{"topic": topic, "partition": partition, "from": was, "to": now} for (topic, partition), was, now in lost]


def _encode(event: str, data: object, event_id: str) -> bytes:
    return format_sse_event(data_str=orjson.dumps(data).decode(), event=event, id=event_id)
