"""The embedded broker: takes records, keeps them over a crash, and three of them make a replicated cluster."""

import time
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from headrace.kafka.metadata import partitions_of
from infra.local.kafka import EmbeddedKafka, embedded_cluster
from infra.local.process import free_port
from tests.rigs.topics import PARTITIONS


def _write(bootstrap: str, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    producer.produce(topic, value)
    assert producer.flush(20) == 0


def _read(bootstrap: str, topic: str) -> list[bytes]:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "test",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    consumer.assign([TopicPartition(topic, 0, 0)])
    found = []
    while (message := consumer.poll(20)) is not None and not message.error():
        found.append(message.value())
    consumer.close()
    return found


def _make(bootstrap: str, topic: str, replication: int) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for made in admin.create_topics([NewTopic(topic, 1, replication)]).values():
        made.result(20)


def test_records_survive_a_broker_that_is_killed(tmp_path: Path) -> None:
    kafka = EmbeddedKafka(tmp_path, f"127.0.0.1:{free_port()}")
    kafka.start()
    _make(kafka.bootstrap, "kept", 1)
    _write(kafka.bootstrap, "kept", b"before")
    kafka.kill()
    assert kafka.pid == 0
    kafka.start()
    _write(kafka.bootstrap, "kept", b"after")
    assert _read(kafka.bootstrap, "kept") == [b"before", b"after"]
    assert kafka.stop(), "the broker had to be killed"


def test_the_contracts_topics_are_made_on_the_shared_broker(broker: str, topics: str) -> None:
    admin, deadline = AdminClient({"bootstrap.servers": broker}), time.monotonic() + 30
    while topics + "tasks.normal" not in (found := admin.list_topics(timeout=10).topics):  # the broker hears of it next
        assert time.monotonic() < deadline
    assert len(found[topics + "tasks.normal"].partitions) == PARTITIONS


def test_three_brokers_keep_taking_records_when_one_is_killed(tmp_path: Path) -> None:
    nodes = embedded_cluster(tmp_path, [free_port(), free_port(), free_port()])
    bootstrap = ",".join(n.bootstrap for n in nodes)
    try:
        for node in nodes:
            node.launch()
        for node in nodes:
            node.wait_ready()
        _make(bootstrap, "replicated", 3)
        _write(bootstrap, "replicated", b"before")
        admins = [AdminClient({"bootstrap.servers": bootstrap}) for _ in range(4)]
        assert all(partitions_of(a, ["replicated"], 30) for a in admins)  # each asks the one that it takes for leading
        nodes[0].kill()
        assert all(partitions_of(a, ["replicated", "missing"], 10) == {"replicated": [0]} for a in admins)
        _write(bootstrap, "replicated", b"after")
        assert _read(bootstrap, "replicated") == [b"before", b"after"]
    finally:
        for node in nodes:
            node.kill()
