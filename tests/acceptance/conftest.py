"""One installation for all acceptance tests: every role in its own process, on the broker of the test run."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from playwright.sync_api import Browser, Page, sync_playwright

from headrace.client import tls_context
from infra.chromium import chromium
from infra.local.cluster import LocalCluster

TIMEOUT_S = 60.0
PAGE_TIMEOUT_MS = 20_000
T = TypeVar("T")


@dataclass(frozen=True)
class Event:
    """One Server-Sent Event as a client reads it."""

    event: str
    id: str
    data: dict[str, Any]


class Client:
    """An HTTP client that does only what a user with curl can do."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = httpx.Client(base_url=url, timeout=TIMEOUT_S, verify=tls_context())

    def submit(self, name: str = "prime", payload: object = None, directory: str = "demo", **more: Any) -> str:
        body = {"name": name, "payload": {"upper_bound": 100} if payload is None else payload, "directory": directory}
        answer = self.http.post("/tasks", json=body | more)
        assert answer.status_code == 202, answer.text
        task_id: str = answer.json()["id"]
        return task_id

    def task(self, task_id: str) -> dict[str, Any]:
        answer = self.http.get(f"/tasks/{task_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def events(self, task_id: str, last_event_id: str = "") -> list[Event]:
        """All events of a task until the server ends the stream."""
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        with self.http.stream("GET", f"/tasks/{task_id}/events", headers=headers) as answer:
            return list(read_events(answer)) if answer.status_code == 200 else []

    def wait(self, task_id: str) -> dict[str, Any]:
        """Waits through the event stream until the task has ended; returns the task."""
        self.events(task_id)
        return self.task(task_id)


def read_events(answer: httpx.Response) -> Iterator[Event]:
    fields: dict[str, str] = {}
    for line in answer.iter_lines():
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif fields:
            yield Event(fields.get("event", "message"), fields.get("id", ""), json.loads(fields.get("data", "null")))
            fields = {}


class Log:
    """Kafka as a native producer and consumer see it, without Headrace's code."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        self.bootstrap, self.prefix = bootstrap, prefix
        self.producer = Producer(
            {"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "message.max.bytes": 2_000_000}
        )

    def produce(
        self, value: bytes, key: str | None = None, topic: str = "tasks.normal", **more: Any
    ) -> tuple[int, int]:
        """(partition, offset) of the record."""
        placed: list[tuple[int, int]] = []

        def delivered(error: Any, message: Any) -> None:
            assert error is None, error
            placed.append((message.partition(), message.offset()))

        self.producer.produce(self.prefix + topic, value, key, on_delivery=delivered, **more)
        assert self.producer.flush(TIMEOUT_S) == 0
        return placed[0]

    def read(self, topic: str) -> list[Any]:
        """All messages of the topic as of now."""
        consumer = Consumer(
            {"bootstrap.servers": self.bootstrap, "group.id": "acceptance", "enable.auto.commit": False}
        )
        name, found, left = self.prefix + topic, [], {}
        try:
            for partition in consumer.list_topics(name, timeout=TIMEOUT_S).topics[name].partitions:
                low, high = consumer.get_watermark_offsets(TopicPartition(name, partition), timeout=TIMEOUT_S)
                if low < high:
                    left[partition] = (low, high)
            consumer.assign([TopicPartition(name, p, low) for p, (low, _) in left.items()])
            while left:
                message = consumer.poll(TIMEOUT_S)
                assert message is not None, f"{topic} returned no message before its end"
                assert message.error() is None, message.error()
                found.append(message)
                if message.offset() + 1 >= left.get(message.partition(), (0, 0))[1]:
                    left.pop(message.partition(), None)
        finally:
            consumer.close()
        return found

    def ids(self, topic: str) -> list[str]:
        return [m.value().decode() for m in self.read(topic)]

    def dead(self, task_id: str) -> Any:
        return until(
            lambda: next((m for m in self.read("tasks.dead") if m.key() == task_id.encode()), None),
            f"{task_id} in tasks.dead",
        )


def headers(message: Any) -> dict[str, str]:
    return {k: v.decode() for k, v in message.headers() or ()}


def until(
    look: Callable[[], T | None], what: str, timeout_s: float = TIMEOUT_S, why: Callable[[], object] = lambda: ""
) -> T:
    """Calls `look` until it returns something; fails after `timeout_s` with `what` and the answer of `why`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if (found := look()) is not None and found is not False:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not in {timeout_s:.0f} s: {what} {why()}".rstrip())


@pytest.fixture(scope="package")
def cluster(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("product"), bootstrap=broker, prefix="acceptance.") as product:
        yield product


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    found = Client(cluster.gateway_url)
    yield found
    found.http.close()


@pytest.fixture
def log(cluster: LocalCluster) -> Log:
    return Log(cluster.settings.kafka, cluster.settings.topic_prefix)


@pytest.fixture
def results(cluster: LocalCluster) -> Path:
    return cluster.settings.results_root


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@contextmanager
def open_page(browser: Browser, url: str, but: str | None = None, **options: Any) -> Iterator[Page]:
    """The page at `url`. A browser error fails the test, unless it contains the text `but`."""
    complaints: list[str] = []
    found = browser.new_page(**options)
    found.set_default_timeout(PAGE_TIMEOUT_MS)
    found.on("pageerror", lambda e: complaints.append(str(e)))
    found.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    found.goto(url)
    yield found
    found.close()
    assert [c for c in complaints if but is None or but not in c] == []
