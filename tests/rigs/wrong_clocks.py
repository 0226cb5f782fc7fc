"""Brokers whose clocks are wrong: topics that take the times that producers give, and records with such times."""

import time

from confluent_kafka import Message, Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from headrace.contract.records import Outgoing
from headrace.kafka.client import Kafka
from tests.rigs.topics import PARTITIONS, PROBE

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
_CREATE_TIME = 1  # librdkafka's TIMESTAMP_CREATE_TIME
_SETTINGS = {"message.timestamp.type": "CreateTime", "message.timestamp.after.max.ms": str(10**13)}
_LONGEST_S = 60.0


class WrongClocks:
    """Sends records with any timestamp to topics of a real broker."""

    def __init__(self, kafka: Kafka, *topics: str) -> None:
        """Returns when the broker takes the given times. Until then probes go into the last partition."""
        self._kafka, self._producer = kafka, Producer(kafka.producer_config())
        entries = [ConfigEntry(k, v, incremental_operation=AlterConfigOpType.SET) for k, v in _SETTINGS.items()]
        for topic in topics:
            resource = ConfigResource(ResourceType.TOPIC, kafka.topic(topic), incremental_configs=entries)
            for done in kafka.admin().incremental_alter_configs([resource]).values():
                done.result(_LONGEST_S)
            deadline = time.monotonic() + _LONGEST_S
            while self.send(Outgoing(topic, PROBE, b"", partition=PARTITIONS - 1))[0] != _CREATE_TIME:
                assert time.monotonic() < deadline, f"{topic} does not take its producers' times"

    def send(self, record: Outgoing, ahead_s: float = 0.0) -> tuple[int, int]:
        """Sends it with a time so far ahead of now; returns the kind of its timestamp and the timestamp."""
        reports: list[Message] = []
        self._producer.produce(
            self._kafka.topic(record.topic),
            record.value,
            record.key,
            headers=list(record.headers),
            partition=record.partition,
            timestamp=int((time.time() + ahead_s) * 1000),
            on_delivery=lambda error, message: reports.append(message),
        )
        assert self._producer.flush(_LONGEST_S) == 0
        assert reports[0].error() is None, reports[0].error()
        return reports[0].timestamp()
