"""GET /tasks/{id}/events and GET /events: Server-Sent Events, resumed by Last-Event-ID on any gateway.

A listener holds its place and nothing else: woken, it reads the store from there, and while its client is slow it reads
nothing. Ids: the place in the task's order on a task's own stream, all Kafka positions on the stream of all tasks.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable

import orjson
from fastapi import APIRouter
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.requests import Request
from starlette.responses import Response

from gateway.http.query import filter_of
from gateway.routes.dependencies import Dependencies, parts_of
from gateway.view import position_vector
from gateway.view.event_stream import EventStream
from gateway.view.projection import id_bytes, id_text
from gateway.view.store import EVENT_TOPICS, Filter
from gateway.view.task_events import ENDED, TaskEvent, all_after, place_valid, progress_offset
from headrace.errors import Retryable

router = APIRouter()

COMMENT_EVERY_S = 10.0  # proxies and browsers see that the stream lives
_PAGE = 200
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_COMMENT = format_sse_event(comment="alive")


@router.get("/tasks/{task_id}/events")
async def task_events(task_id: str, request: Request) -> Response:
    """What has happened to one task, then what happens, ended by its terminal event."""
    parts = parts_of(request)
    row = await parts.find(task_id)
    after = request.headers.get("last-event-id", "")
    after = after if place_valid(after) else ""
    if after == ENDED:
        return Response(status_code=204)  # which stops a browser's reconnecting
    return EventSourceResponse(_of_task(parts, id_text(row.id), after), headers=_HEADERS)


@router.get("/events")
async def all_events(request: Request) -> Response:
    """What happens to all tasks from now on, or from where Last-Event-ID says."""
    parts = parts_of(request)
    wanted = filter_of(request.query_params, times=False)
    last = request.headers.get("last-event-id", "")
    place, first = position_vector.vector_of(parts.view.snapshot.positions), b""
    if last:
        try:
            place = position_vector.decode(last)
            for topic in range(len(EVENT_TOPICS)):
                for partition in range(parts.view.partitions):
                    place.setdefault((topic, partition), 0)
            first = await _reset(parts, place)
        except ValueError:
            reason = "Last-Event-ID is not one of this stream: it goes on from now"
            first = _encode("reset", {"reason": reason}, position_vector.encode(place))
    return EventSourceResponse(_of_all(parts, place, wanted, first), headers=_HEADERS)


async def _of_task(parts: Dependencies, task_id: str, after: str) -> AsyncIterator[bytes]:
    key = id_bytes(task_id)
    with parts.feed.listen(key) as woken, parts.metrics.listeners.track_inprogress():
        comment_at = time.monotonic() + COMMENT_EVERY_S
        while not parts.feed.closed:
            woken.clear()
            told, more = _news(parts, key, after)
            if told:
                after = told[-1].place
                yield b"".join(_encode(t.event, t.data, t.place) for t in told)
            if after == ENDED:
                return
            if not more and not await _wait(woken, comment_at):
                comment_at = time.monotonic() + COMMENT_EVERY_S
                yield _COMMENT


def _news(parts: Dependencies, key: bytes, after: str) -> tuple[list[TaskEvent], bool]:
    """What is to be told, and whether there is more of it than was read."""
    row = parts.store.row(key)
    if row is None:
        return [], False
    reports = parts.store.progress_after(key, progress_offset(after), _PAGE)
    more = len(reports) == _PAGE
    return all_after(row, reports, after, more), more


async def _of_all(
    parts: Dependencies, place: position_vector.Vector, wanted: Filter, first: bytes
) -> AsyncIterator[bytes]:
    with parts.feed.listen() as woken, parts.metrics.listeners.track_inprogress():
        yield first or _COMMENT  # at once: the client knows that it is connected
        follower: EventStream | None = None
        comment_at = time.monotonic() + COMMENT_EVERY_S
        while not parts.feed.closed:
            woken.clear()
            snapshot = parts.view.snapshot
            # A gateway that has read less than the one the client comes from cannot know yet what it was told.
            if follower is None and position_vector.passed(place, snapshot.positions):
                follower = await asyncio.to_thread(EventStream.resume, parts.store, place, snapshot.seq, wanted)
            pairs = follower.next(_PAGE) if follower else None
            if pairs:
                yield b"".join(_encode(t.event, t.data, position_vector.encode(v)) for t, v in pairs)
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


async def _reset(parts: Dependencies, place: position_vector.Vector) -> bytes:
    """Moves positions that Kafka does not hold to where it begins, and gives the event that says so (b"" = none)."""
    names = {(EVENT_TOPICS[t], p): (t, p) for t, p in place if p < parts.view.partitions}
    try:
        starts, ends = await parts.reach.starts(names), await parts.reach.ends(names)
    except Retryable:
        return b""  # a browser would give up on an error; what the store has is told meanwhile
    lost = [(n, place[k], starts[n]) for n, k in names.items() if not starts[n] <= place[k] <= ends[n]]
    for name, _, start in lost:
        place[names[name]] = start
    return _encode("reset", {"lost": _lost(lost)}, position_vector.encode(place)) if lost else b""


def _lost(lost: Iterable[tuple[tuple[str, int], int, int]]) -> list[dict[str, object]]:
    return [{"topic": topic, "partition": partition, "from": was, "to": now} for (topic, partition), was, now in lost]


def _encode(event: str, data: object, place: str) -> bytes:
    return format_sse_event(data_str=orjson.dumps(data).decode(), event=event, id=place)
