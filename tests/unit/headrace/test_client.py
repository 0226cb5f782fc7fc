"""The client's event stream: what the gateway may send, read as the specification of Server-Sent Events says."""

from collections.abc import Callable

import httpx
import pytest

from headrace.client import Client, ServerEvent, read_events


def events_of(stream: str, content_type: str = "text/event-stream") -> list[ServerEvent]:
    return list(read_events(httpx.Response(200, headers={"Content-Type": content_type}, content=stream.encode())))


def test_server_sent_events_are_read_as_they_are_written() -> None:
    stream = ': alive\n\nevent: started\nid: 2\ndata: {"status": "running"}\n\ndata: {"a": 1}\nid:p7\n\n'
    first, second = events_of(stream)
    assert (first.event, first.id, first.data) == ("started", "2", {"status": "running"})
    assert (second.event, second.id, second.data) == ("message", "p7", {"a": 1})


def test_the_data_lines_of_one_event_belong_together() -> None:
    [event] = events_of('data: {"a": 1,\ndata: "b": 2}\n\n')
    assert event.data == {"a": 1, "b": 2}


def test_a_comment_after_an_event_is_no_event() -> None:
    assert len(events_of("id: 1\ndata: {}\n\n: alive\n\n: alive\n\n")) == 1


def test_only_line_feeds_and_carriage_returns_end_a_line() -> None:
    text = "one\u2028two\u0085three"
    [event] = events_of(f'data: {{"message": "{text}"}}\r\n\r\n')
    assert event.data == {"message": text}


def test_an_event_that_is_cut_off_is_not_delivered() -> None:
    assert events_of('data: {"a": 1}\n') == []


def test_what_is_no_event_stream_is_an_error_of_the_connection() -> None:
    with pytest.raises(httpx.TransportError, match="text/event-stream"):
        events_of("<html>", "text/html")


def client_of(answer: Callable[[httpx.Request], httpx.Response]) -> Client:
    client = Client("http://gateway.example")
    client._http = httpx.Client(base_url="http://gateway.example", transport=httpx.MockTransport(answer))
    return client


def test_a_task_without_further_events_is_no_error() -> None:
    with client_of(lambda _: httpx.Response(204)) as client:
        assert list(client.events("0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a11")) == []
