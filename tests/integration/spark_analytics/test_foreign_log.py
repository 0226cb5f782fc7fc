"""What others put into the lifecycle topics: codecs, transactions and damaged batches; the counts stay right."""

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from pyspark.sql import SparkSession

from headrace.contract.records import Outgoing
from headrace.kafka.client import Kafka
from headrace.kafka.sender import Sender
from headrace.kafka.topics import apply_topics
from headrace.settings import Settings
from infra.local.kafka import EmbeddedKafka
from infra.local.process import free_port
from spark_analytics.job import StatisticsJob
from spark_analytics.metrics import Metrics
from spark_analytics.sinks.memory import MemorySink
from tests.rigs.damage import KINDS, damage_batch
from tests.rigs.lifecycle import stories

pytestmark = pytest.mark.timeout(600)
TOPIC = "lifecycle.received"
BATCH = 5
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


@contextmanager
def counting(spark: SparkSession, settings: Settings, folder: Path) -> Iterator[MemorySink]:
    sink = MemorySink()
    job = StatisticsJob(spark, settings, Kafka(settings, "test"), sink, folder, Metrics())
    failures: list[Exception] = []

    def run() -> None:
        try:
            job.run()
        except Exception as e:  # noqa: BLE001 - the test tells it
            failures.append(e)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield sink
    finally:
        job.stop()
        thread.join(60)
    assert not failures
    assert not thread.is_alive()


def received(count: int) -> list[Outgoing]:
    return [story[0] for story in stories(count, seed=uuid.uuid4().int)]


def wait_counted(sink: MemorySink, count: int) -> None:
    deadline = time.monotonic() + 90
    while (found := sum(n for n, _, _ in list(sink.rows.values()))) != count:
        assert time.monotonic() < deadline, f"{found} of {count}"
        time.sleep(0.1)


def test_every_codec_and_committed_records_only(
    spark: SparkSession, kafka_settings: Settings, topics: str, tmp_path: Path
) -> None:
    settings = replace(kafka_settings, trigger_s=0.5)
    kafka = Kafka(settings, "test")
    for codec in CODECS:
        sender = Sender(kafka, **{"compression.type": codec, "linger.ms": 50})
        sender.send_all(received(20), 60)
        sender.close()
    producer = Producer(kafka.producer_config(**{"transactional.id": kafka.topic("t"), "compression.type": "lz4"}))
    producer.init_transactions(60)
    for commits in (True, False):
        producer.begin_transaction()
        for record in received(7):
            producer.produce(kafka.topic(TOPIC), record.value, record.key, headers=list(record.headers))
        (producer.commit_transaction if commits else producer.abort_transaction)(60)
    with counting(spark, settings, tmp_path / "analytics") as sink:
        wait_counted(sink, 20 * len(CODECS) + 7)
        time.sleep(3)  # more triggers over the markers
        wait_counted(sink, 20 * len(CODECS) + 7)


def test_behind_damaged_batches_the_counting_goes_on(spark: SparkSession, tmp_path: Path) -> None:
    broker = EmbeddedKafka(tmp_path / "broker", f"127.0.0.1:{free_port()}")
    broker.start()
    try:
        settings = Settings(kafka=broker.bootstrap, data=tmp_path, trigger_s=0.5)
        kafka = Kafka(settings, "test")
        apply_topics(AdminClient({"bootstrap.servers": broker.bootstrap}), "", len(KINDS))
        for _ in range(3):
            for partition in range(len(KINDS)):
                sender = Sender(kafka, **{"linger.ms": 200})
                sender.send_all([replace(r, partition=partition) for r in received(BATCH)], 60)
                sender.close()
        assert broker.stop(30)
        for partition, kind in enumerate(KINDS):
            damage_batch(broker.folder, TOPIC, partition, BATCH, kind)
        broker.start()
        with counting(spark, settings, tmp_path / "analytics") as sink:
            deadline = time.monotonic() + 90
            while (found := sum(n for n, _, _ in list(sink.rows.values()))) < 2 * BATCH * len(KINDS):
                assert time.monotonic() < deadline, f"{found} of {2 * BATCH * len(KINDS)}"
                time.sleep(0.1)
            assert found <= (2 * len(KINDS) + 1) * BATCH
    finally:
        broker.kill()
