"""The client of every system with a web interface: POST /tasks, POST /tasks/batch, and GET /events for all tasks.

It uses the standard library's HTTP client: a heavier one would take more time than some of the servers. RuntimeError
when a server refuses a submission for longer than `_PATIENCE_S`.
"""

import http.client
import json
import threading
import time
from collections.abc import Iterable
from typing import Any

from .completions import Completions

_PATIENCE_S = 60.0
_IDLE_S = 30.0  # half of the time after which the servers close an idle connection
_NOT_YET = (422, 503)  # the kinds are not announced yet, or the server is starting


class WebClient:
    """One connection for submissions, and one for the events of all tasks, read by a thread. For one thread."""

    def __init__(self, address: str) -> None:
        """`address`: host:port. Returns when the server streams events."""
        self._address = address
        self._posts = http.client.HTTPConnection(address, timeout=120)
        self._used_at = time.monotonic()
        self._completions = Completions()
        stream = http.client.HTTPConnection(address)
        stream.request("GET", "/events")
        threading.Thread(target=self._read, args=(stream.getresponse(),), daemon=True).start()

    def submit(self, task: dict[str, Any]) -> str:
        """The new task's id."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            status, text = self._post("/tasks", json.dumps(task).encode(), "application/json")
            if status == 202:
                return str(json.loads(text)["id"])
            if status not in _NOT_YET or time.monotonic() > deadline:
                raise RuntimeError(f"POST /tasks answered {status}: {text[:300]!r}")
            time.sleep(0.1)

    def submit_many(self, tasks: Iterable[dict[str, Any]]) -> list[str]:
        """The new tasks' ids, in order, from one request of a line for each."""
        lines = b"".join(json.dumps(task).encode() + b"\n" for task in tasks)
        status, text = self._post("/tasks/batch", lines, "application/x-ndjson")
        if status >= 300:
            raise RuntimeError(f"POST /tasks/batch answered {status}: {text[:300]!r}")
        return [str(json.loads(line)["id"]) for line in text.splitlines() if line]

    def wait(self, task_id: str, timeout_s: float) -> str:
        """As `Completions.wait`."""
        return self._completions.wait(task_id, timeout_s)

    def close(self) -> None:
        self._posts.close()

    def _post(self, path: str, body: bytes, kind: str) -> tuple[int, bytes]:
        if time.monotonic() - self._used_at > _IDLE_S:
            self._posts.close()  # the next request opens it again; the server may have closed it
        self._posts.request("POST", path, body, {"content-type": kind})
        answer = self._posts.getresponse()
        status, text = answer.status, answer.read()
        self._used_at = time.monotonic()
        return status, text

    def _read(self, events: http.client.HTTPResponse) -> None:
        """Notes the ends of tasks until the server closes the stream."""
        event = ""
        for line in events:
            if line.startswith(b"event:"):
                event = line[6:].strip().decode()
            elif line.startswith(b"data:") and event in ("completed", "failed", "cancelled"):
                self._completions.note({json.loads(line[5:])["id"]: "" if event == "completed" else event})
