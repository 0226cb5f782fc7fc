"""The topics of tests: enough partitions for two members of a group to share; more would slow down the broker.

`limit_records` makes Kafka refuse records, as a missing right or a wrong setting would. `grow` adds partitions.
"""

import time

from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)

from headrace.contract.records import Outgoing
from headrace.errors import Refused, Retryable
from headrace.kafka.client import Kafka
from headrace.kafka.reading import end_offsets
from headrace.kafka.sender import Sender

PARTITIONS = 2
PROBE = b"probe"  # key of the records that ask whether a limit holds; in the last partition
UNLIMITED = 2_097_152
_LONGEST_S = 60.0


def grow(kafka: Kafka, topic: str, partitions: int) -> None:
    """Gives the topic so many partitions in all, as an operator does by hand; returns when each has a leader."""
    [done] = kafka.admin().create_partitions([NewPartitions(kafka.topic(topic), partitions)]).values()
    done.result(_LONGEST_S)
    deadline = time.monotonic() + _LONGEST_S
    while True:
        try:
            end_offsets(kafka, kafka.admin(), [(topic, partitions - 1)])
            return
        except Retryable:
            assert time.monotonic() < deadline, f"{topic}/{partitions - 1} gets no leader"
            time.sleep(0.05)


def limit_records(kafka: Kafka, topic: str, size: int) -> None:
    """Makes Kafka refuse batches of more than `size` bytes for the topic; with UNLIMITED, none.

    Returns when the broker applies the limit: it learns of it through the controller's log. Until then probes go in.
    """
    _set_topic(kafka, topic, "max.message.bytes", str(size))
    sender, deadline = Sender(kafka), time.monotonic() + _LONGEST_S
    probe = Outgoing(topic, PROBE, b"x" * min(size, 100_000), partition=PARTITIONS - 1)
    try:
        while _is_taken(sender, probe) != (size == UNLIMITED):
            assert time.monotonic() < deadline, f"the broker does not apply max.message.bytes={size} to {topic}"
            time.sleep(0.05)
    finally:
        sender.close()


def _set_topic(kafka: Kafka, topic: str, name: str, value: str) -> None:
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, kafka.topic(topic), incremental_configs=[entry])
    admin = kafka.admin()
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(_LONGEST_S)


def _is_taken(sender: Sender, record: Outgoing) -> bool:
    try:
        sender.send(record).result(_LONGEST_S)
    except Refused:
        return False
    return True
