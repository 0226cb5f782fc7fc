"""Compressed records, as most producers send them: every codec of Kafka, single and batched, through every reader."""

import uuid
from collections.abc import Callable

import pytest
from confluent_kafka import Producer

from infra.local.cluster import LocalCluster
from tests.acceptance.conftest import TIMEOUT_S, Client, Log, headers, until
from tests.acceptance.test_kafka_native import body, wait_for_task

CODECS = ("gzip", "snappy", "lz4", "zstd")


@pytest.fixture(params=CODECS)
def send(request: pytest.FixtureRequest, cluster: LocalCluster) -> Callable[..., None]:
    """Sends values by key, compressed, in batches of as many records as fit."""

    def send_records(values: dict[str, bytes], topic: str = "tasks.normal") -> None:
        options = {"compression.type": request.param, "linger.ms": 200, "partitioner": "murmur2_random"}
        producer = Producer({"bootstrap.servers": cluster.settings.kafka} | options)
        for key, value in values.items():
            producer.produce(cluster.settings.topic_prefix + topic, value, key)
        assert producer.flush(TIMEOUT_S) == 0

    return send_records


@pytest.mark.parametrize("topic", ["tasks.normal", "tasks.high"])
def test_tasks_in_compressed_records_run_as_any_others(
    send: Callable[..., None], client: Client, log: Log, topic: str
) -> None:
    alone, *batch = (str(uuid.uuid4()) for _ in range(21))
    send({alone: body()}, topic)
    send({task_id: body() for task_id in batch}, topic)
    for task_id in (alone, *batch):
        assert wait_for_task(client, task_id)["status"] == "completed"
    received = log.ids("lifecycle.received")
    assert [received.count(task_id) for task_id in (alone, *batch)] == [1] * 21


def test_a_compressed_submission_is_read_back_by_cancel_and_redrive(
    send: Callable[..., None], client: Client, log: Log
) -> None:
    task_id = str(uuid.uuid4())
    send({task_id: body(name="no-such-kind")})
    log.dead(task_id)
    until(lambda: client.task(task_id)["status"] == "failed", f"{task_id} is known as failed")
    answer = client.http.post("/dead/redrive", json={"ids": [task_id], "dry_run": True})
    assert answer.status_code == 200, answer.text
    assert headers(log.dead(task_id))["reason"] == "unknown-kind"
