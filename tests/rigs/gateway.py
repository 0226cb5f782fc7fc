"""For tests of the gateway over a real Kafka: a gateway in a thread, and the records that other roles would send."""

import asyncio
import dataclasses
import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import orjson
import uvicorn

from gateway.app import make_app
from gateway.main import Server, running
from gateway.routes.dependencies import Dependencies
from gateway.view.store import StatusStore
from headrace.client import tls_context
from headrace.contract.cluster import Heartbeat, KindInfo
from headrace.contract.lifecycle import received_event, started_event
from headrace.contract.outcome import Outcome
from headrace.contract.progress import Progress
from headrace.contract.records import Outgoing, Record, Source
from headrace.contract.states import Reason
from headrace.contract.submission import Submission
from headrace.contract.task import Task
from headrace.kafka.client import Kafka
from headrace.kafka.sender import Sender
from headrace.settings import Settings
from headrace.storage.results_root import open_directory
from tests.rigs.reading import read_until

SCHEMA = {
    "type": "object",
    "properties": {"upper_bound": {"type": "integer", "minimum": 0}},
    "required": ["upper_bound"],
    "additionalProperties": False,
}
BODY = {"name": "prime", "payload": {"upper_bound": 1000}, "directory": "demo"}


class Gateway:
    """A gateway that runs in a thread. `http` is a client of it; `dependencies` are those of its handlers."""

    def __init__(self, settings: Settings, name: str = "gateway") -> None:
        self._settings, self._name = settings, name
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name=name)
        self.dependencies: Dependencies
        self._server: Server

    def start(self, until_ready: bool = True) -> "Gateway":
        self._thread.start()
        assert self._ready.wait(60), "the gateway did not start"
        self.http = httpx.Client(base_url=self.url, timeout=60, verify=tls_context())
        deadline = time.monotonic() + 60
        while until_ready and self.http.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline, self.http.get("/readyz").text
            time.sleep(0.02)
        return self

    def stop(self) -> None:
        self._server.should_exit = True
        self.dependencies.notifier.close()
        self._thread.join(20)
        self.http.close()

    async def _serve(self) -> None:
        store = StatusStore(self._settings.data / f"{self._name}.sqlite")
        root = open_directory(self._settings.results_root)
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with running(self._settings, Kafka(self._settings, self._name), root, store) as deps:
            self.dependencies = deps
            config = uvicorn.Config(
                make_app(deps), log_level="warning", lifespan="off", timeout_graceful_shutdown=2, ws="none"
            )
            self._server = Server(config, deps.notifier)
            self._ready.set()
            await self._server.serve(sockets=[listening])
        store.close()
        root.close()
        listening.close()


@contextmanager
def gateway(settings: Settings, name: str = "gateway", until_ready: bool = True) -> Iterator[Gateway]:
    running_gateway = Gateway(settings, name).start(until_ready)
    try:
        yield running_gateway
    finally:
        running_gateway.stop()


class OtherRoles:
    """Sends the records that workers and the storekeeper would send."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.sender = Sender(Kafka(settings, "platform"), timeout_s=60)
        self.names: set[str] = set()

    def send(self, *records: Outgoing) -> list[tuple[str, int, int]]:
        return self.sender.send_all(records, timeout_s=60)

    def announce(self, name: str = "prime", schema: dict[str, Any] = SCHEMA, node: str = "node-1") -> None:
        kind = KindInfo(name, schema, timeout_s=60.0, max_attempts=3, description="The primes below a bound.")
        boot = "5d3c3f7f-0a11-4a86-9a3a-0b1ff0a43f0b"
        self.names.add(name)
        self.send(
            kind.encode(),
            Heartbeat(
                boot,
                node,
                host="host",
                pid=1,
                slots=2,
                started_ms=1_764_000_000_000,
                running=(),
                kinds=tuple(self.names),
            ).encode(),
        )

    def task(
        self, task_id: str, attempt: int = 1, topic: str = "tasks.normal", partition: int = 0, offset: int = 0
    ) -> Task:
        return Task(
            task_id,
            orjson.dumps(BODY),
            attempt=attempt,
            source=Source(topic, partition, offset),
            submitted_ms=1_764_000_000_000,
        )

    def received(self, task_id: str) -> None:
        self.send(received_event(self.task(task_id), "prime", "demo", "http"))

    def started(self, task_id: str, attempt: int = 1) -> None:
        self.send(started_event(self.task(task_id, attempt), "prime", "demo", "node-1", "boot"))

    def progress(self, task_id: str, fraction: float, message: str = "") -> None:
        self.send(Progress(task_id, 1, fraction, message).encode())

    def completed(
        self, task_id: str, value: bytes = b"[2,3,5,7]", content_type: str = "application/json", suffix: str = ".json"
    ) -> None:
        file = f"demo/{task_id}{suffix}"
        path = self.settings.results_root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value)
        outcome = dataclasses.replace(self.outcome(task_id), content_type=content_type)
        self.send(outcome.completed_event(file, len(value), hashlib.sha256(value).hexdigest()))

    def dead(self, task_id: str, reason: Reason = Reason.FAILED, error: str = "ValueError: no") -> None:
        outcome = dataclasses.replace(
            self.outcome(task_id), outcome="failed", value=orjson.dumps(BODY), reason=reason, error=error
        )
        self.send(outcome.dead_letter())

    def dead_later(self, task_id: str, reason: Reason) -> None:
        """The storekeeper's dead letter, sent 0.3 s later from a thread."""
        threading.Timer(0.3, self.dead, (task_id, reason, "cancelled")).start()

    def outcome(self, task_id: str) -> Outcome:
        t = 1_764_000_000_000
        return Outcome(
            task_id,
            "completed",
            b"",
            attempt=1,
            boot="boot",
            node="node-1",
            source=Source("tasks.normal", 0, 0),
            submitted_ms=t,
            name="prime",
            directory="demo",
            started_ms=t + 4,
            ended_ms=t + 16,
            offset=9,
        )

    def run(self, task_id: str) -> None:
        """All records of one task that completes."""
        self.received(task_id)
        self.started(task_id)
        self.completed(task_id)

    def close(self) -> None:
        self.sender.close()


@dataclasses.dataclass(frozen=True)
class Stage:
    """A gateway, and the other roles of its installation."""

    settings: Settings
    roles: OtherRoles
    gw: Gateway


def records_on(settings: Settings, topic: str) -> list[Record]:
    """All records that a topic holds now."""
    return read_until(Kafka(settings, "reader"), topic, 0)


def submission(**changes: Any) -> bytes:
    body = BODY | changes
    Submission.from_json(body)
    return orjson.dumps(body)


def events_of(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """Events of an open stream as {"id", "event", "data"}; comments are {"comment"}."""
    event: dict[str, Any] = {}
    for line in response.iter_lines():
        if line == "":
            if event:
                yield event
            event = {}
        elif line.startswith(":"):
            event["comment"] = line[1:].strip()
        else:
            key, _, value = line.partition(": ")
            event[key] = orjson.loads(value) if key == "data" else value
