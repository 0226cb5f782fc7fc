"""The membership of a consumer in its group, on a real broker."""

import time

from confluent_kafka import Consumer, ConsumerGroupState, TopicPartition

from headrace.kafka.client import Kafka, member_of
from headrace.settings import Settings


def test_an_assignment_that_arrives_while_the_consumer_closes(kafka_settings: Settings, topics: str) -> None:
    """librdkafka still calls back then, and has no membership any more when the callback comes to ask for it."""
    kafka, seen = Kafka(kafka_settings, "membership"), []

    def on_assign(consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.assign(partitions)
        deadline = time.monotonic() + 20
        while (member := member_of(consumer))[0] >= 0 and time.monotonic() < deadline:
            time.sleep(0.02)  # the group is left meanwhile
        seen.append(member)

    consumer = kafka.consumer("membership")
    consumer.subscribe([kafka.topic("results")], on_assign=on_assign)
    wait_assigned(kafka)
    consumer.close()
    assert seen == [(-1, "")]


def wait_assigned(kafka: Kafka) -> None:
    """Until the group has given out its partitions, which nobody polls for."""
    admin, group, deadline = kafka.admin(), kafka.group("membership"), time.monotonic() + 20
    while True:
        [answer] = admin.describe_consumer_groups([group]).values()
        if answer.exception() is None and answer.result().state == ConsumerGroupState.STABLE:
            time.sleep(0.5)  # the answer is on its way to the consumer
            return
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)
