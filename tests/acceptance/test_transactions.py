"""Kafka transactions: committed tasks run, aborted ones never were, and an open one blocks a partition and no role."""

import time
import uuid
from collections.abc import Callable, Iterator

import httpx
import pytest
from confluent_kafka import Producer

from headrace.kafka.client import Kafka
from headrace.kafka.groups import INTAKE_GROUP, RECEIVER_GROUP
from headrace.kafka.partitioner import partition_of
from headrace.kafka.reading import committed_offsets, high_watermarks
from headrace.process.health import STALE_S, STUCK_S
from infra.local.cluster import LocalCluster
from tests.acceptance.conftest import TIMEOUT_S, Client, Log, until
from tests.acceptance.test_kafka_native import body, wait_for_task
from tests.rigs.http import get

PARTITIONS = 4  # of the package's cluster


@pytest.fixture
def producer(cluster: LocalCluster) -> Iterator[Producer]:
    made = transactional(cluster)
    yield made
    made.purge()


def transactional(cluster: LocalCluster, **options: object) -> Producer:
    name = f"{cluster.settings.topic_prefix}loader-{uuid.uuid4().hex[:6]}"
    found = Producer(
        {"bootstrap.servers": cluster.settings.kafka, "transactional.id": name, "partitioner": "murmur2_random"}
        | options
    )
    found.init_transactions(TIMEOUT_S)
    found.begin_transaction()
    return found


def send(producer: Producer, cluster: LocalCluster, task_id: str, topic: str = "tasks.normal") -> str:
    producer.produce(cluster.settings.topic_prefix + topic, body(), task_id)
    assert producer.flush(TIMEOUT_S) == 0
    return task_id


def new_id(partition: int = 0) -> str:
    while partition_of((task_id := str(uuid.uuid4())).encode(), PARTITIONS) != partition:
        pass
    return task_id


def ready(cluster: LocalCluster) -> dict[str, tuple[int, list[str], list[str]]]:
    """(status, reasons, notes) of `/readyz` by role."""
    urls = {
        "gateway": cluster.settings.http,
        "worker": cluster.settings.stats_http,
        "storekeeper": cluster.settings.storekeeper_http,
    }
    found = {}
    for role, address in urls.items():
        answer: httpx.Response = get(f"http://{address}/readyz", timeout=5)
        found[role] = answer.status_code, answer.json()["reasons"], answer.json()["notes"]
    return found


def stays_ready(cluster: LocalCluster, seconds: float) -> dict[str, tuple[int, list[str], list[str]]]:
    """Asserts that every role is ready all the time; returns their last answers."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answers = ready(cluster)
        assert {role: reasons for role, (_, reasons, _) in answers.items()} == {role: [] for role in answers}, answers
        time.sleep(0.5)
    return answers


def caught_up(cluster: LocalCluster) -> Callable[[], bool]:
    """Whether every group of the task topics has committed to their very ends."""
    kafka = Kafka(cluster.settings, "test")
    admin = kafka.admin()
    places = [(t, p) for t in ("tasks.normal", "tasks.high") for p in range(PARTITIONS)]

    def look() -> bool:
        ends = high_watermarks(kafka, admin, places)
        for group in (INTAKE_GROUP, RECEIVER_GROUP):
            consumer = kafka.consumer(group)
            at = committed_offsets(kafka, consumer, places)
            consumer.close()
            if any(max(0, at[p]) < end for p, end in ends.items()):
                return False
        return True

    return look


SILENCE_S = max(STALE_S, STUCK_S) + 4


@pytest.mark.parametrize("topic", ["tasks.normal", "tasks.high"])
def test_after_a_committed_transaction_and_silence_every_role_is_ready_and_nothing_is_left(
    cluster: LocalCluster, client: Client, producer: Producer, topic: str
) -> None:
    task_id = send(producer, cluster, new_id(), topic)
    producer.commit_transaction(TIMEOUT_S)
    assert wait_for_task(client, task_id)["status"] == "completed"
    stays_ready(cluster, SILENCE_S)
    until(caught_up(cluster), "all offsets are committed to the end")


def test_an_aborted_submission_never_was(cluster: LocalCluster, client: Client, log: Log, producer: Producer) -> None:
    aborted, after = send(producer, cluster, new_id(1)), new_id(1)
    producer.abort_transaction(TIMEOUT_S)
    log.produce(body(), after)
    assert wait_for_task(client, after)["status"] == "completed"
    send_last = transactional(cluster)
    aborted_too = send(send_last, cluster, new_id(1))
    send_last.abort_transaction(TIMEOUT_S)
    stays_ready(cluster, SILENCE_S)
    until(caught_up(cluster), "all offsets are committed to the end")
    for task_id in (aborted, aborted_too):
        assert client.http.get(f"/tasks/{task_id}").status_code == 404
        for topic in ("lifecycle.received", "lifecycle.started", "lifecycle.completed"):
            assert task_id not in log.ids(topic)


@pytest.mark.timeout(240)
def test_an_open_transaction_blocks_its_partition_and_every_role_says_whose_it_is_and_stays_ready(
    cluster: LocalCluster, client: Client, log: Log, producer: Producer
) -> None:
    begun = time.time()
    held, behind, elsewhere = send(producer, cluster, new_id(2)), new_id(2), new_id(3)
    log.produce(body(), behind)
    log.produce(body(), elsewhere)
    assert wait_for_task(client, elsewhere)["status"] == "completed"
    answers = stays_ready(cluster, 2 * SILENCE_S)
    for role in ("gateway", "worker"):
        [note] = answers[role][2]
        assert "tasks.normal/2" in note
        assert f"{cluster.settings.topic_prefix}loader-" in note, note
        since = time.strftime("%Y-%m-%dT%H:%M", time.gmtime(begun))
        assert since in note, note
    answer = client.http.get(f"/tasks/{behind}")
    assert answer.status_code == 503
    assert "transaction" in answer.text
    text = get(f"http://{cluster.settings.stats_http}/metrics").text
    assert "headrace_blocked_partitions 1.0" in text
    producer.commit_transaction(TIMEOUT_S)
    for task_id in (held, behind):
        assert wait_for_task(client, task_id)["status"] == "completed"
    until(lambda: all(not notes for _, _, notes in ready(cluster).values()), "the notes are gone")
    until(caught_up(cluster), "all offsets are committed to the end")


def test_many_transactions_that_overlap_lose_nothing_and_add_nothing(
    cluster: LocalCluster, client: Client, log: Log
) -> None:
    producers = [transactional(cluster) for _ in range(6)]
    committed, aborted = [], []
    for turn in range(4):
        for n, producer in enumerate(producers):
            ids = committed if (turn + n) % 2 else aborted
            ids += [send(producer, cluster, str(uuid.uuid4())) for _ in range(3)]
            log.produce(body(), plain := str(uuid.uuid4()))
            committed.append(plain)
        for n, producer in enumerate(producers):
            (producer.commit_transaction if (turn + n) % 2 else producer.abort_transaction)(TIMEOUT_S)
            producer.begin_transaction()
    for task_id in committed:
        assert wait_for_task(client, task_id)["status"] == "completed"
    for producer in producers:
        producer.abort_transaction(TIMEOUT_S)
    stays_ready(cluster, SILENCE_S)
    until(caught_up(cluster), "all offsets are committed to the end")
    received = log.ids("lifecycle.received")
    assert [received.count(i) for i in committed] == [1] * len(committed)
    assert not set(received) & set(aborted)
