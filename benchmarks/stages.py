"""`python -m benchmarks.stages [tasks]`: how long a task spends in each stage, with real processes.

A stage is the time between two of a task's records, which have the broker's timestamps. Those are whole milliseconds,
so medians say little; a mean over some hundred tasks is good to a tenth. The slowest hundredth is left out. Times
inside storekeeper and gateway come from their metrics. It is not a test.
"""

import os
import re
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import orjson
from confluent_kafka import Consumer, KafkaError, TopicPartition

from headrace.client import Client
from headrace.contract.ids import id_of_key
from headrace.contract.records import Outgoing, Record
from headrace.kafka.client import Kafka
from headrace.kafka.sender import Sender
from infra.local.cluster import LocalCluster

WARM_UP, TASKS = 400, 300
BODY = {"name": "prime", "payload": {"upper_bound": 10}, "directory": "bench"}
TOPICS = ("tasks.normal", "tasks.running", "lifecycle.received", "lifecycle.started", "results", "lifecycle.completed")
STAGES = (  # name, from, to
    ("sent → in the log", "sent", "tasks.normal"),
    ("in the log → claim in the log", "tasks.normal", "tasks.running"),
    ("claim → started in the log", "tasks.running", "lifecycle.started"),
    ("started → outcome in the log", "lifecycle.started", "results"),
    ("outcome → completed in the log", "results", "lifecycle.completed"),
    ("completed in the log → seen", "lifecycle.completed", "seen"),
    ("whole", "sent", "seen"),
    ("aside: in the log → received", "tasks.normal", "lifecycle.received"),
)
_METRIC = re.compile(r'^(headrace_\w+_seconds)_(sum|count)(?:\{stage="(\w+)"\})? (\S+)$', re.MULTILINE)

Times = dict[str, float]  # stage boundary -> ms since the epoch


def main(arguments: list[str]) -> int:
    count = int(arguments[0]) if arguments else TASKS
    with tempfile.TemporaryDirectory() as folder, LocalCluster(Path(folder), partitions=16) as cluster:
        kafka = Kafka(cluster.settings, "stages")
        observer = Observer(kafka)
        for _ in range(WARM_UP):
            observer.run_task()
        metrics = (f"{cluster.gateway_url}/metrics", f"http://{cluster.settings.storekeeper_http}/metrics")
        with httpx.Client() as http:
            before = read_metrics(http, metrics)
            native = [observer.run_task() for _ in range(count)]
            between = read_metrics(http, metrics)
            with Client(cluster.gateway_url) as client:
                web = [web_task(client) for _ in range(count)]
            after = read_metrics(http, metrics)
        observer.add_times([*native, *web])
        observer.close()
    print(f"load {os.getloadavg()[0]:.1f}; {count} tasks each; mean without the slowest 1 %, median, 99th; ms")
    print_stages("Kafka in to completed", native)
    print_metrics(before, between)
    print_stages("POST to completed by SSE", web)
    print_metrics(between, after)
    return 0


class Observer:
    """Submits tasks to Kafka one by one, waits for each `lifecycle.completed`, and reads the log afterwards."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka, self._sender = kafka, Sender(kafka)
        self._consumer: Consumer = kafka.consumer()
        self._starts = {t: self._ends(t) for t in TOPICS}
        self._consumer.assign(self._starts["lifecycle.completed"])
        self._wait_for({self.send(str(uuid.uuid4())) for _ in range(10)})

    def send(self, task_id: str) -> str:
        self._sender.send(Outgoing("tasks.normal", task_id.encode(), orjson.dumps(BODY)))
        return task_id

    def run_task(self) -> tuple[str, Times]:
        begun = now_ms()
        task_id = self.send(str(uuid.uuid4()))
        self._wait_for({task_id})
        return task_id, {"sent": begun, "seen": now_ms()}

    def add_times(self, tasks: list[tuple[str, Times]]) -> None:
        """Adds the broker's timestamp of each task's first record in every topic to the times seen from outside."""
        times = dict(tasks)
        for topic in TOPICS:
            for record in self._log(topic):
                task_id = (record.key or b"").decode().partition(":")[0]
                if task_id in times and record.value is not None:
                    times[task_id].setdefault(topic, record.timestamp_ms)

    def close(self) -> None:
        self._sender.close()
        self._consumer.close()

    def _wait_for(self, waiting: set[str]) -> None:
        deadline = time.monotonic() + 300
        while waiting:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(waiting)} tasks have not completed, such as {next(iter(waiting))}")
            message = self._consumer.poll(1.0)
            if message is not None and message.error() is None:
                waiting.discard(id_of_key(self._kafka.record(message).key) or "")

    def _ends(self, topic: str) -> list[TopicPartition]:
        name = self._kafka.topic(topic)
        places = [TopicPartition(name, p) for p in self._consumer.list_topics(name, timeout=10).topics[name].partitions]
        for place in places:
            place.offset = self._consumer.get_watermark_offsets(place, timeout=10)[1]
        return places

    def _log(self, topic: str) -> Iterator[Record]:
        starts = self._starts[topic]
        self._consumer.assign(starts)
        open_ends = len(starts)
        while open_ends:
            for message in self._consumer.consume(1000, 0.2):
                error = message.error()
                if error is None:
                    yield self._kafka.record(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    open_ends -= 1


def web_task(client: Client) -> tuple[str, Times]:
    times = {"sent": now_ms()}
    task_id = client.submit(**BODY)["id"]  # type: ignore[arg-type]
    times["accepted"] = now_ms()
    for _ in client.events(task_id):
        pass
    times["seen"] = now_ms()
    return task_id, times


def print_stages(title: str, tasks: list[tuple[str, Times]]) -> None:
    print(f"\n{title}")
    for name, begin, end in (*STAGES, ("POST → 202", "sent", "accepted")):
        took = [t[end] - t[begin] for _, t in tasks if begin in t and end in t]
        if took:
            print_row(name, took)


def print_row(name: str, took: list[float]) -> None:
    ordered = sorted(took)
    kept = ordered[: max(1, round(len(ordered) * 0.99))]
    row = statistics.fmean(kept), statistics.median(ordered), ordered[int(len(ordered) * 0.99) - 1]
    print(f"  {name:38}" + "".join(f"{v:8.2f}" for v in row))


def print_metrics(before: Mapping[str, tuple[float, float]], after: Mapping[str, tuple[float, float]]) -> None:
    for name, (seconds, count) in after.items():
        seconds_before, count_before = before.get(name, (0.0, 0.0))
        if count > count_before:
            print(f"    {name:52}{(seconds - seconds_before) / (count - count_before) * 1000:8.2f} mean")


def read_metrics(http: httpx.Client, urls: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    """(sum of seconds, count) of every timing metric."""
    found: dict[str, dict[str, float]] = {}
    for url in urls:
        for name, what, stage, value in _METRIC.findall(http.get(url).text):
            found.setdefault(f"{name} {stage}".strip(), {})[what] = float(value)
    return {name: (v.get("sum", 0.0), v.get("count", 0.0)) for name, v in found.items()}


def now_ms() -> float:
    return time.time_ns() / 1e6


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
