"""The web service in front of a peer: FastAPI, with the interface that `web_client` uses; and the end of its tasks.

A task writes its result to a file with fsync, as Headrace does, and then tells Redis; the service passes that on to
every listener of GET /events. `create_app` is for the service's process, `finish` for the worker's.
"""

import asyncio
import json
import os
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import redis
import redis.asyncio
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from .bench import Bench

_CHANNEL = "ended"
Send = Callable[[str, dict[str, Any], str, str], None]  # kind, payload, task id, priority


class Submission(BaseModel):
    """The body of POST /tasks, and a line of POST /tasks/batch."""

    name: str
    payload: dict[str, Any]
    directory: str
    priority: str = "normal"


def create_app(bench: Bench, send: Send) -> FastAPI:
    """The service. `send` puts a task into the peer's queue, and may block."""
    listeners: set[asyncio.Queue[bytes]] = set()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        passing = asyncio.create_task(_pass_on(bench.redis, listeners))
        yield
        passing.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.post("/tasks", status_code=202)
    def submit(task: Submission) -> dict[str, str]:  # not async: `send` blocks, so FastAPI runs this in a thread
        return _accept(task, send)

    @app.post("/tasks/batch")
    async def submit_many(request: Request) -> Response:
        tasks = [Submission.model_validate_json(line) for line in (await request.body()).splitlines() if line]
        made = await asyncio.to_thread(lambda: [_accept(task, send) for task in tasks])
        return Response("".join(json.dumps(one) + "\n" for one in made), media_type="application/x-ndjson")

    @app.get("/events")
    async def events() -> StreamingResponse:
        return StreamingResponse(_stream(listeners), media_type="text/event-stream")

    return app


def _accept(task: Submission, send: Send) -> dict[str, str]:
    task_id = str(uuid.uuid4())
    send(task.name, task.payload, task_id, task.priority)
    return {"id": task_id}


async def _pass_on(url: str, listeners: set[asyncio.Queue[bytes]]) -> None:
    """Gives the data of every ended task to all listeners."""
    async with redis.asyncio.Redis.from_url(url, socket_timeout=None) as connection, connection.pubsub() as ended:
        await ended.subscribe(_CHANNEL)
        async for message in ended.listen():
            if message["type"] == "message":
                for listener in listeners:
                    listener.put_nowait(message["data"])


async def _stream(listeners: set[asyncio.Queue[bytes]]) -> AsyncIterator[bytes]:
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    listeners.add(queue)
    try:
        yield b": open\n\n"
        while True:
            yield b"event: completed\ndata: " + await queue.get() + b"\n\n"
    finally:
        listeners.discard(queue)


def finish(bench: Bench, connection: "redis.Redis", task_id: str, value: object) -> None:
    """Writes the result, whole or not at all, and tells the service."""
    folder = bench.folder / "results"
    folder.mkdir(exist_ok=True)
    fd, name = tempfile.mkstemp(dir=folder)
    with os.fdopen(fd, "w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    Path(name).rename(folder / task_id)
    _sync(folder)
    connection.publish(_CHANNEL, json.dumps({"id": task_id}))


def _sync(folder: Path) -> None:
    """The new name is on the disk too."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
