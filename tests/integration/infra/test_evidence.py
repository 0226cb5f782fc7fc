"""Each record of a run is read once, however often the evidence is read, and trimmed records are skipped."""

import uuid

from confluent_kafka import TopicPartition

from headrace.contract.lifecycle import received_event
from headrace.contract.records import Source
from headrace.contract.task import Task
from headrace.kafka.client import Kafka
from headrace.kafka.sender import Sender
from headrace.settings import Settings
from infra.chaos.evidence import EvidenceReader
from tests.rigs.core import record


def test_each_record_counts_once_and_stays_after_it_is_trimmed(kafka_settings: Settings, topics: str) -> None:
    kafka, ids = Kafka(kafka_settings, "test"), [str(uuid.uuid4()) for _ in range(3)]
    sender, reader = Sender(kafka), EvidenceReader(kafka)
    assert not reader.read().histories
    sender.send_all([record(ids[0], partition=0)], 60)
    for _ in range(2):
        assert {i: s.submitted for i, s in reader.read().histories.items()} == {ids[0]: 1}
    sender.send_all([record(ids[1], partition=0), record(ids[2], partition=0)], 60)
    place = TopicPartition(kafka.topic("tasks.normal"), 0, 2)  # the second is trimmed before it is read
    admin = kafka.admin()  # kept: its answers need the client alive
    for done in admin.delete_records([place]).values():
        done.result(60)
    told = Task(ids[1], b"{}", attempt=1, source=Source("tasks.normal", 0, 1), submitted_ms=1)
    sender.send_all([received_event(told, "work", "d", "kafka")], 60)
    sender.close()
    stories = reader.read().histories
    assert {i: (s.submitted, len(s.received)) for i, s in stories.items()} == {
        ids[0]: (1, 0),
        ids[1]: (0, 1),
        ids[2]: (1, 0),
    }
