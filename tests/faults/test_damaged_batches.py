"""Batches that cannot be decoded: no role ends or stands still, what comes after them is done, and a person is told."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from headrace.kafka.log_consumer import LogConsumer
from infra.local.cluster import LocalCluster
from tests.acceptance.conftest import TIMEOUT_S, Client, Log, headers, until
from tests.acceptance.test_kafka_native import body, wait_for_task
from tests.rigs.damage import KINDS, damage_batch
from tests.rigs.http import get

BATCH = 20
DAMAGED = dict(enumerate(KINDS))  # partition -> what is wrong with its batch


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("damaged"), partitions=len(DAMAGED)) as product:
        yield product


def send_batch(cluster: LocalCluster, partition: int, topic: str = "tasks.normal") -> list[str]:
    producer = Producer({"bootstrap.servers": cluster.settings.kafka, "linger.ms": 500})
    ids = [str(uuid.uuid4()) for _ in range(BATCH)]
    for task_id in ids:
        producer.produce(topic, body(), task_id, partition)
    assert producer.flush(TIMEOUT_S) == 0
    return ids


def notes(cluster: LocalCluster) -> dict[str, list[str]]:
    urls = {"gateway": cluster.settings.http, "worker": cluster.settings.stats_http}
    found = {}
    for role, address in urls.items():
        answer = get(f"http://{address}/readyz", timeout=5)
        assert answer.status_code == 200, answer.text
        found[role] = answer.json()["notes"]
    return found


@pytest.mark.timeout(300)
def test_a_damaged_batch_is_passed_over_named_and_counted_and_what_can_be_read_of_it_is_dead(
    cluster: LocalCluster,
) -> None:
    client, log = Client(cluster.gateway_url), Log(cluster.settings.kafka, "")
    until(lambda: get(f"{cluster.gateway_url}/readyz", timeout=5).status_code == 200, "the gateway is ready")
    for role in ("worker-1", "gateway"):
        cluster.kill(role)
    lost = {partition: send_batch(cluster, partition) for partition in DAMAGED}
    between = {partition: send_batch(cluster, partition) for partition in DAMAGED}
    [kafka] = cluster.brokers
    assert kafka.stop(30)
    for partition, kind in DAMAGED.items():
        damage_batch(kafka.folder, "tasks.normal", partition, 0, kind)
    kafka.start()
    for role in ("worker-1", "gateway"):
        cluster.services[role].start()

    for ids in between.values():
        for task_id in ids:
            assert wait_for_task(client, task_id)["status"] == "completed"
    for partition, kind in DAMAGED.items():
        for task_id in lost[partition]:
            if kind == "checksum":  # the keys can be read
                assert headers(dead := log.dead(task_id))["reason"] == "invalid"
                assert "damaged" in headers(dead)["error"]
                assert client.wait(task_id)["status"] == "failed"
            else:
                assert client.http.get(f"/tasks/{task_id}").status_code == 404
    for role_notes in notes(cluster).values():
        for partition in DAMAGED:
            [note] = [n for n in role_notes if n.startswith(f"tasks.normal/{partition}:")]
            assert f"offsets 0 to {BATCH - 1} are passed over" in note
    for address in (cluster.settings.http, cluster.settings.stats_http):
        assert f"headrace_damaged_batches_total {len(DAMAGED)}.0" in get(f"http://{address}/metrics").text
    client.http.close()


@pytest.mark.timeout(120)
def test_where_the_batch_cannot_be_fetched_as_it_is_its_end_is_found_by_trying(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    """Reads the log that the test before has left."""
    from headrace.kafka.client import Kafka
    from headrace.kafka.reading import read_batches
    from headrace.settings import Settings

    kafka = Kafka(Settings(kafka=cluster.settings.kafka, data=tmp_path), "no-raw")
    consumer = kafka.consumer(None)
    assert isinstance(consumer, LogConsumer)

    def refuse(*_: object) -> tuple[bytes, int]:
        raise ImportError("aiokafka")

    consumer._fetch = refuse
    found: list[int] = []
    for partition in DAMAGED:
        at = {("tasks.normal", partition): (0, 2 * BATCH)}
        found += [m.offset() or 0 for some in read_batches(kafka, consumer, at, silent_s=60.0) for m in some]
    consumer.close()
    assert sorted(found) == sorted([*range(BATCH, 2 * BATCH)] * len(DAMAGED))
