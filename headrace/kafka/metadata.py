"""Finds topics by name: a cluster may have thousands of others, whose metadata takes megabytes.

`partitions_of` uses an admin client, because librdkafka's `list_topics(name)` may create the topic. KafkaException when
Kafka does not answer.
"""

from collections.abc import Iterable

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from headrace.kafka.client import Kafka

_MISSING = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError.TOPIC_AUTHORIZATION_FAILED)


def partitions_of(admin: AdminClient, topics: Iterable[str], timeout_s: float) -> dict[str, list[int]]:
    """Topic -> its partitions; leaves out topics that do not exist or that we may not describe.

    KafkaException when Kafka does not answer within `timeout_s`.
    """
    names = list(topics)
    try:
        return _described(admin, names, timeout_s / 2)
    except KafkaException:
        # It waits for one broker, which may be the one that is away. This asks any, and then stays with another one.
        every = admin.list_topics(timeout=timeout_s / 2).topics
        return {name: list(every[name].partitions) for name in names if name in every and every[name].error is None}


def installation_name(client: AdminClient | Consumer, kafka: Kafka, topic: str, timeout_s: float) -> str:
    """The cluster's id and our prefix: local copies of the log belong to both. `topic` must exist. KafkaException."""
    return f"{client.list_topics(kafka.topic(topic), timeout=timeout_s).cluster_id} {kafka.prefix}"


def _described(admin: AdminClient, names: list[str], timeout_s: float) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for name, answer in admin.describe_topics(TopicCollection(names), request_timeout=timeout_s).items():
        try:
            found[name] = [p.id for p in answer.result().partitions]
        except KafkaException as e:
            if e.args[0].code() not in _MISSING:
                raise
    return found
