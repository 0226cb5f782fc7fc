"""`python -m benchmarks.headrace`: latency and throughput of the product, real processes on a broker of its own.

Prints one table. It is not a test and judges nothing; on a shared machine, compare only figures of one run.
"""

import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import Consumer, TopicPartition

from headrace.client import Client
from headrace.contract.records import Outgoing
from headrace.kafka.client import Kafka
from headrace.kafka.sender import Sender
from infra.local.cluster import LocalCluster

PATIENCE_S = 300.0
WARM_UP, LATENCY_TASKS, THROUGHPUT_TASKS, CRASHES = 200, 200, 2000, 20
BODY: dict[str, Any] = {"name": "prime", "payload": {"upper_bound": 10}, "directory": "bench"}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, LocalCluster(Path(folder), partitions=16) as cluster:
        with Client(cluster.gateway_url) as client:
            for _ in range(WARM_UP):
                http_task(client)
            rows = [
                ("POST to completed by SSE", *percentiles(lambda: http_task(client), LATENCY_TASKS), "ms p50 / p99"),
                ("POST to 202", *percentiles(lambda: client.submit(**BODY), LATENCY_TASKS), "ms p50 / p99"),
                ("replay after a killed child", *replays(client), "ms p50 / p99"),
            ]
        native = Native(Kafka(cluster.settings, "bench"))
        rows.insert(0, ("Kafka in to completed", *percentiles(native.one, LATENCY_TASKS), "ms p50 / p99"))
        rows.append(("no-op tasks, all completed", native.many(THROUGHPUT_TASKS), 0.0, "tasks/s"))
        native.close()
    for name, first, second, unit in rows:
        print(f"{name:30} {first:9.1f} {f'{second:9.1f}' if second else '':9} {unit}")


def percentiles(once: Callable[[], object], count: int) -> tuple[float, float]:
    """(median, 99th percentile) in milliseconds of `count` calls, one after another."""
    took = []
    for _ in range(count):
        begun = time.perf_counter()
        once()
        took.append((time.perf_counter() - begun) * 1000)
    return statistics.median(took), statistics.quantiles(took, n=100)[98]


def http_task(client: Client) -> None:
    for _ in client.events(client.submit(**BODY)["id"]):
        pass


def replays(client: Client) -> tuple[float, float]:
    """(median, 99th percentile) in milliseconds from the death of attempt 1 to the start of attempt 2."""
    took = []
    for _ in range(CRASHES):
        task_id = client.submit("fragile", {"how": "kill", "attempts": 1}, "bench")["id"]
        for _ in client.events(task_id):
            pass
        first, second = client.request("GET", f"/tasks/{task_id}")["attempts"][:2]
        took.append((moment(second["started_at"]) - moment(first["ended_at"])) * 1000)
    return statistics.median(took), statistics.quantiles(took, n=100)[98]


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


class Native:
    """Submits tasks to Kafka and waits for their `lifecycle.completed`."""

    def __init__(self, kafka: Kafka) -> None:
        self._sender = Sender(kafka)
        self._consumer: Consumer = kafka.consumer()
        topic = kafka.topic("lifecycle.completed")
        partitions = self._consumer.list_topics(topic, timeout=10).topics[topic].partitions
        # From the present ends: "latest" would be resolved later, and miss tasks that completed before.
        places = [TopicPartition(topic, p) for p in partitions]
        ends = [self._consumer.get_watermark_offsets(p, timeout=10)[1] for p in places]
        self._consumer.assign([TopicPartition(p.topic, p.partition, end) for p, end in zip(places, ends, strict=True)])
        self.many(10)

    def one(self) -> None:
        self.many(1)

    def many(self, count: int) -> float:
        """Tasks per second, from the first record sent to the last completed; TimeoutError after PATIENCE_S."""
        waiting = {str(uuid.uuid4()) for _ in range(count)}
        begun = time.perf_counter()
        for task_id in waiting.copy():
            self._sender.send(Outgoing("tasks.normal", task_id.encode(), orjson.dumps(BODY)))
        while waiting:
            if time.perf_counter() - begun > PATIENCE_S:
                raise TimeoutError(f"{len(waiting)} of {count} tasks have not completed, such as {next(iter(waiting))}")
            message = self._consumer.poll(1.0)
            if message is not None and message.error() is None:
                waiting.discard((message.key() or b"").decode())
        return count / (time.perf_counter() - begun)

    def close(self) -> None:
        self._sender.close()
        self._consumer.close()


if __name__ == "__main__":
    main()
