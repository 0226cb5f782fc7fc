"""The client's event streams against servers that break off, end the stream, repeat an event or stay away."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from headrace.client import Client, Refused
from headrace.errors import HeadraceError, Unreachable
from headrace.reconnect import Outage

TASK = "0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a11"
OK = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"


def event(name: str, event_id: str, task: str = "t") -> str:
    return f'event: {name}\nid: {event_id}\ndata: {{"id": "{task}"}}\n\n'


class Server:
    """Answers each connection with the next of these texts and closes it; the last one is repeated."""

    def __init__(self, *answers: str) -> None:
        self.asked: list[str] = []  # the Last-Event-ID of each request
        self._answers = answers
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # closed already
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                lines = connection.recv(65536).decode().split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
                self.asked.append(headers.get("last-event-id", ""))  # before the answer: a client may look at once
                connection.sendall(self._answers[min(len(self.asked), len(self._answers)) - 1].encode())


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def begin(*answers: str) -> Server:
        servers.append(Server(*answers))
        return servers[-1]

    yield begin
    for server in servers:
        server.close()


def test_a_task_whose_stream_is_ended_early_is_followed_to_its_end(serve: Callable[..., Server]) -> None:
    server = serve(
        f"{OK}\r\n{event('received', '1')}", f"{OK}\r\n", f"{OK}\r\n{event('started', '2')}{event('completed', '9')}"
    )
    said: list[str] = []
    with Client(f"http://127.0.0.1:{server.port}") as client:
        heard = [e.event for e in client.events(TASK, say=said.append)]
    assert heard == ["received", "started", "completed"]
    assert server.asked == ["", "1", "1"]
    assert "has ended the event stream; trying again" in said[0]
    assert said[1] == "connected again"


def test_a_listener_that_has_heard_nothing_resumes_from_the_streams_begin(serve: Callable[..., Server]) -> None:
    server = serve(f"{OK}Last-Event-ID: begin\r\n\r\n", f"{OK}Last-Event-ID: later\r\n\r\n{event('received', 'x')}")
    with Client(f"http://127.0.0.1:{server.port}") as client:
        assert next(client.events()).id == "x"
    assert server.asked == ["", "begin"]


def test_an_event_that_is_sent_again_with_the_same_id_is_told_once(serve: Callable[..., Server]) -> None:
    gap = event("received", "a", "t2")  # it fills a gap, so it has the id of the event before it
    server = serve(f"{OK}\r\n{event('started', 'a', 't1')}{gap}", f"{OK}\r\n{gap}{event('started', 'b', 't2')}")
    with Client(f"http://127.0.0.1:{server.port}") as client:
        stream = client.events()
        heard = [(e.event, e.data["id"]) for e in (next(stream), next(stream), next(stream))]
    assert heard == [("started", "t1"), ("received", "t2"), ("started", "t2")]
    assert server.asked == ["", "a"]


def test_a_server_that_ends_every_stream_is_not_asked_in_a_tight_loop(serve: Callable[..., Server]) -> None:
    server, began = serve(f"{OK}\r\n"), time.monotonic()

    def say(_: str) -> None:
        if time.monotonic() - began > 2:
            raise TimeoutError

    with Client(f"http://127.0.0.1:{server.port}") as client, pytest.raises(TimeoutError):
        next(client.events(say=say))
    assert 2 <= len(server.asked) <= 7  # after 0.25, 0.5, 1, … s, each cut by up to half


def test_a_gateway_that_answered_once_is_waited_for_until_patience_ends(serve: Callable[..., Server]) -> None:
    server = serve(f"{OK}\r\n{event('received', '1')}")
    with Client(f"http://127.0.0.1:{server.port}") as client:
        stream = client.events(TASK, patience_s=1.0)
        assert next(stream).event == "received"
        server.close()
        began = time.monotonic()
        with pytest.raises(Unreachable, match="Connection refused"):
            next(stream)
        assert time.monotonic() - began >= 1.0


def test_a_gateway_that_never_answered_is_reported_at_once(serve: Callable[..., Server]) -> None:
    server = serve("")
    server.close()
    said: list[str] = []
    with Client(f"http://127.0.0.1:{server.port}") as client, pytest.raises(Unreachable):
        next(client.events(say=said.append))
    assert said == []


def test_a_proxy_without_its_gateway_is_waited_for_and_an_unknown_task_is_not(serve: Callable[..., Server]) -> None:
    away = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    gone = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    server = serve(f"{OK}\r\n{event('received', '1')}", away, gone)
    with Client(f"http://127.0.0.1:{server.port}") as client:
        stream = client.events(TASK)
        next(stream)
        with pytest.raises(Refused, match="404"):
            next(stream)
    assert len(server.asked) == 3


def test_pauses_grow_and_a_good_connection_makes_them_short_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("headrace.reconnect.time.sleep", pauses.append)
    outage, why = Outage(300.0, lambda _: None), HeadraceError("away")
    for _ in range(8):
        outage.wait(why)
    assert all(longest / 2 <= p <= longest for p, longest in zip(pauses, (0.25, 0.5, 1, 2, 4, 5, 5, 5), strict=True))
    outage.connected()
    outage.end()
    outage.wait(why)
    assert pauses[-1] <= 0.25
