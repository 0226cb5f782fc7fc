"""A client of the gateway's HTTP interface, for the command line and for Python programs.

    with Client("http://127.0.0.1:8000") as client:
        task = client.submit("prime", {"upper_bound": 100}, "demo")
        for event in client.events(task["id"]): ...

Refused when the gateway answers with a problem: its message has the problem's detail and the wrong fields. Retryable
when the gateway does not answer.
"""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import httpx
import orjson
from httpx_sse import EventSource

from headrace.contract.states import TERMINAL
from headrace.errors import HeadraceError, Retryable

_TIMEOUT_S = 30.0
_SILENCE_S = 30.0  # the gateway sends a comment every 10 s: after three missed ones it is gone


class Refused(HeadraceError):
    """The gateway answered with a problem. `status` is the HTTP status, `problem` its JSON."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        fields = "; ".join(f"{e.get('pointer', '')}: {e.get('detail', '')}" for e in problem.get("errors", []))
        detail = problem.get("detail") or problem.get("title") or f"HTTP status {status}"
        super().__init__(f"{detail} ({fields})" if fields and fields not in detail else detail)
        self.status = status
        self.problem = problem


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One Server-Sent Event: its name, the id to resume after, and its data, a JSON object."""

    event: str
    id: str
    data: dict[str, Any]


@cache
def tls_context() -> ssl.SSLContext:
    """One context for all clients of this process: making one reads all certificates of the machine, 40 ms."""
    return httpx.create_ssl_context()


class Client:
    """One connection pool to the gateway at `url`. Not thread-safe."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._http = httpx.Client(base_url=url, timeout=_TIMEOUT_S, verify=tls_context())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def submit(self, name: str, payload: dict[str, Any], directory: str, **more: Any) -> dict[str, Any]:
        """Submits a task; returns the gateway's answer with its id and links.

        `more`: timeout_s (seconds), max_attempts, expires_at (RFC 3339), priority ("normal" or "high").
        """
        body = {"name": name, "payload": payload, "directory": directory} | {
            k: v for k, v in more.items() if v is not None
        }
        return self.request("POST", "/tasks", json=body)

    def request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Sends a request and returns the JSON answer, {} for an empty one. `options` are those of httpx."""
        answer = self._send(method, path, **options)
        found: dict[str, Any] = orjson.loads(answer.content) if answer.content else {}
        return found

    def events(self, task_id: str | None = None, params: dict[str, str] | None = None) -> Iterator[ServerEvent]:
        """A task's events until its end, or the events of all tasks without an id.

        Resumes where a connection broke; Retryable after five failures in a row. `params` are filters for all tasks.
        """
        path = f"/tasks/{task_id}/events" if task_id else "/events"
        last, failures = "", 0
        while failures < 5:
            try:
                for event in self._stream(path, params or {}, last):
                    last, failures = event.id or last, 0
                    yield event
                    if task_id and event.event in TERMINAL:
                        return
                if task_id:
                    return
            except httpx.TransportError:
                failures += 1
        raise Retryable(f"{self._url} does not answer: is the gateway up?")

    def result(self, task_id: str) -> Iterator[bytes]:
        """The stored result, in pieces."""
        with self._http.stream("GET", f"/tasks/{task_id}/result") as answer:
            if answer.status_code != 200:
                answer.read()
                raise Refused(answer.status_code, _problem(answer))
            yield from answer.iter_bytes()

    def attempt_log(self, task_id: str, attempt: int) -> bytes:
        """The last 256 KiB that an attempt printed; Refused when no log of it is kept."""
        return self._send("GET", f"/tasks/{task_id}/attempts/{attempt}/log").content

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **options)
        except httpx.TransportError as e:
            raise Retryable(f"{self._url} does not answer ({e}): is the gateway up? See `headrace up`") from None
        if answer.status_code >= 400:
            raise Refused(answer.status_code, _problem(answer))
        return answer

    def _stream(self, path: str, params: dict[str, str], last: str) -> Iterator[ServerEvent]:
        headers = {"Last-Event-ID": last} if last else {}
        timeout = httpx.Timeout(_TIMEOUT_S, read=_SILENCE_S)
        with self._http.stream("GET", path, params=params, headers=headers, timeout=timeout) as answer:
            if answer.status_code >= 400:
                answer.read()
                raise Refused(answer.status_code, _problem(answer))
            if answer.status_code != 204:  # nothing follows the task's last event
                yield from read_events(answer)


def read_events(answer: httpx.Response) -> Iterator[ServerEvent]:
    """The events of a streaming response. httpx.TransportError when the connection breaks or it is no event stream."""
    for event in EventSource(answer).iter_sse():
        if event.data:  # httpx-sse also yields the blank line after a comment
            yield ServerEvent(event.event, event.id, orjson.loads(event.data))


def _problem(answer: httpx.Response) -> dict[str, Any]:
    try:
        found = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        found = None
    return found if isinstance(found, dict) else {"detail": answer.text[:300]}
