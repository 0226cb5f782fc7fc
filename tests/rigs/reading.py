"""Reads a topic in tests, and waits for records."""

import time

from confluent_kafka import TopicPartition

from headrace.contract.records import Record
from headrace.kafka.client import SHORT_FETCH, Kafka


def read_until(kafka: Kafka, topic: str, count: int, timeout_s: float = 60.0) -> list[Record]:
    """All records of the topic from its beginning, once there are at least `count`; AssertionError after `timeout_s`.

    It then reads on to the end of each partition, so that a surplus record is seen.
    """
    consumer = kafka.consumer(None, **SHORT_FETCH)
    name = kafka.topic(topic)
    partitions = consumer.list_topics(name, timeout=10).topics[name].partitions
    consumer.assign([TopicPartition(name, p, 0) for p in partitions])
    found: list[Record] = []
    deadline = time.monotonic() + timeout_s
    at_end: set[int] = set()
    while len(found) < count or len(at_end) < len(partitions):
        message = consumer.poll(0.5)
        if message is not None and message.error() is None:
            found.append(kafka.record(message))
            at_end.discard(message.partition() or 0)
        elif message is not None:
            at_end.add(message.partition() or 0)
        assert time.monotonic() < deadline, f"{topic}: {len(found)} records of {count} after {timeout_s:g} s"
    consumer.close()
    return found
