"""A client of the gateway's HTTP interface, for the command line and for Python programs.

    with Client("http://127.0.0.1:8000") as client:
        task = client.submit("prime", {"upper_bound": 100}, "demo")
        for event in client.events(task["id"]): ...

Refused when the gateway answers with a problem: its message has the problem's detail and the wrong fields. Unreachable,
a Retryable, when the gateway does not answer. Event streams outlive its restart.
"""

import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Self
from urllib.parse import quote

import httpx
import orjson
from httpx_sse import EventSource

from headrace.contract.exact_json import parse_json
from headrace.contract.states import TERMINAL
from headrace.errors import HeadraceError, Invalid, Undecodable, Unreachable, UsageError
from headrace.reconnect import Outage

_TIMEOUT_S = 30.0
_SILENCE_S = 30.0  # the gateway sends a comment every 10 s: after three missed ones it is gone
_PATIENCE_S = 300.0  # a supervisor waits up to 30 s before a restart, and a rolling deployment takes minutes

# Types of problems (gateway.http.problems) with an exit code of their own. The others are errors of another kind.
_USAGE = ("bad-json", "bad-request", "invalid-submission", "invalid-payload", "too-large")
_EXIT_CODES = dict.fromkeys(_USAGE, 2) | {
    "no-such-task": 4,
    "unknown-kind": 4,
    "kafka-unavailable": 5,
    "catching-up": 5,
}
_UNREACHABLE = (502, 503, 504)  # also what a proxy answers while the gateway behind it is away


class Refused(HeadraceError):
    """The gateway answered with a problem. `status` is the HTTP status, `problem` its JSON."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        fields = "; ".join(f"{e.get('pointer', '')}: {e.get('detail', '')}" for e in problem.get("errors", []))
        detail = problem.get("detail") or problem.get("title") or f"HTTP status {status}"
        super().__init__(f"{detail} ({fields})" if fields and fields not in detail else detail)
        self.status = status
        self.problem = problem
        kind = str(problem.get("type", "")).rpartition("/")[2]
        self.exit_code = _EXIT_CODES.get(kind, 1)
        if not kind and status in _UNREACHABLE:
            self.exit_code = Unreachable.exit_code
        if problem.get("task_status") in ("failed", "cancelled"):
            self.exit_code = 3


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One Server-Sent Event: its name, the id to resume after, and its data, a JSON object."""

    event: str
    id: str
    data: dict[str, Any]

    def is_same(self, other: "ServerEvent") -> bool:
        """Whether both tell the same thing of the same task."""
        return (self.event, self.data.get("id"), self.data.get("at")) == (
            other.event,
            other.data.get("id"),
            other.data.get("at"),
        )


@cache
def tls_context() -> ssl.SSLContext:
    """One context for all clients of this process: making one reads all certificates of the machine, 40 ms."""
    return httpx.create_ssl_context()


class Client:
    """One connection pool to the gateway at `url`. Not thread-safe."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._http = httpx.Client(base_url=url, timeout=_TIMEOUT_S, verify=tls_context())
        self._answered = False  # whether the gateway has ever answered this client

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
        with self._errors():
            found = parse_json(answer.content or b"{}")  # a kind's schema may have integers beyond 64 bits
        if not isinstance(found, dict):
            raise self._no_gateway()
        return found

    def events(
        self,
        task_id: str | None = None,
        params: dict[str, str] | None = None,
        *,
        patience_s: float = _PATIENCE_S,
        say: Callable[[str], None] = lambda _line: None,
    ) -> Iterator[ServerEvent]:
        """A task's events until its end, or the events of all tasks without an id, none missing and none twice.

        Connects again, with growing pauses, when the connection breaks or the gateway ends the stream. Unreachable
        after `patience_s` seconds without the gateway, and at once when it has never answered this client. `params`
        are filters for all tasks; `say` gets a line when the connection is lost and when it is back.
        """
        path = f"{task_path(task_id)}/events" if task_id else "/events"
        last, same_id, outage = "", list[ServerEvent](), Outage(patience_s, say)
        while True:
            try:
                with self._open_events(path, params or {}, last) as answer:
                    if answer.status_code == 204:  # nothing follows the task's last event
                        return
                    outage.connected()
                    last = last or answer.headers.get("last-event-id", "")
                    for event in read_events(answer):
                        outage.end()
                        # An event that fills a gap has the id of the event before it, after which it is sent again.
                        same_id = same_id if event.id == last else []
                        if any(event.is_same(e) for e in same_id):
                            continue
                        same_id.append(event)
                        last = event.id or last
                        yield event
                        if task_id and event.event in TERMINAL:
                            return
                why: HeadraceError = Unreachable(f"{self._url} has ended the event stream")
            except (Unreachable, Refused) as e:
                if not self._answered or (isinstance(e, Refused) and e.status not in _UNREACHABLE):
                    raise
                why = e
            outage.wait(why)

    def result(self, task_id: str) -> Iterator[bytes]:
        """The stored result, in pieces; Unreachable also when the connection breaks in the middle."""
        with self._open("GET", f"{task_path(task_id)}/result") as answer:
            yield from answer.iter_bytes()

    def attempt_log(self, task_id: str, attempt: int) -> bytes:
        """The last 256 KiB that an attempt printed; Refused when no log of it is kept."""
        return self._send("GET", f"{task_path(task_id)}/attempts/{attempt}/log").content

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        with self._errors():
            answer = self._http.request(method, path, **options)
            self._check(answer)
        return answer

    @contextmanager
    def _open(self, method: str, path: str, **options: Any) -> Iterator[httpx.Response]:
        """A response whose body is read while it arrives."""
        with self._errors(), self._http.stream(method, path, **options) as answer:
            if answer.status_code >= 400:
                answer.read()
            self._check(answer)
            yield answer

    @contextmanager
    def _open_events(self, path: str, params: dict[str, str], last: str) -> Iterator[httpx.Response]:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
        timeout = httpx.Timeout(_TIMEOUT_S, read=_SILENCE_S)
        with self._open("GET", path, params=params, headers=headers, timeout=timeout) as answer:
            if answer.status_code == 200 and "text/event-stream" not in answer.headers.get("content-type", ""):
                raise self._no_gateway()
            yield answer

    def _check(self, answer: httpx.Response) -> None:
        if answer.status_code >= 400:
            raise Refused(answer.status_code, _problem(answer))
        self._answered = True

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns httpx's errors into ours."""
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL) as e:
            why = re.sub(r"^\[Errno -?\d+\] ", "", str(e)) or type(e).__name__
            raise Unreachable(
                f"{self._url} does not answer ({why}): is the gateway up? Start it with "
                "`headrace up`, or give its address in HEADRACE_HTTP"
            ) from None
        except UnicodeEncodeError:
            raise UsageError("the name of the kind, the directory and all options must be UTF-8") from None
        except (Undecodable, Invalid, orjson.JSONDecodeError):
            raise self._no_gateway() from None

    def _no_gateway(self) -> HeadraceError:
        return HeadraceError(
            f"what answers at {self._url} is no gateway of Headrace: give its address in HEADRACE_HTTP"
        )


def task_path(task_id: str) -> str:
    """The path of a task, also for a text that is no id."""
    return f"/tasks/{quote(task_id, safe='')}"


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
    if isinstance(found, dict):
        return found
    text = answer.text[:300].strip()
    return {"detail": f"HTTP status {answer.status_code}{text and f': {text}'}"}
