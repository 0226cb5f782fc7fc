"""What a worker node makes sure of before it begins: that Kafka has its topics, and that its offsets are not lost."""

import time
from collections.abc import Callable, Iterable

from confluent_kafka import KafkaException

from headrace.errors import Retryable, UsageError
from headrace.kafka.client import Kafka, log_throttled
from headrace.kafka.lag import LagWatch
from headrace.kafka.metadata import partitions_of

_AGAIN_S = 0.5


def wait_for_topics(kafka: Kafka, topics: Iterable[str], meanwhile: Callable[[], object]) -> None:
    """Returns when Kafka answers and has the topics: without them Faust would spin. `meanwhile` may raise."""
    admin, names = kafka.admin(), [kafka.topic(t) for t in topics]
    while True:
        meanwhile()
        try:
            there = partitions_of(admin, names, 5)
            missing = [name for name in names if name not in there]
            if not missing:
                return
            log_throttled("topics", "Waiting for the topics %s: run `headrace topics apply`", ", ".join(missing))
        except KafkaException as e:
            log_throttled("no kafka", "Waiting for Kafka at %s: %s", kafka.bootstrap, e.args[0].str())
        time.sleep(_AGAIN_S)


def check_offsets(lag: LagWatch, group: str) -> None:
    """UsageError when the group has read partitions of which it has no committed offset any more."""
    while True:
        try:
            lost = lag.lost()
            break
        except Retryable as e:
            log_throttled("no kafka", "Waiting for the offsets of group %s: %s", group, e)
            time.sleep(_AGAIN_S)
    if lost:
        listed = ", ".join(f"{topic} {partition}" for topic, partition in sorted(lost))
        raise UsageError(
            f"group {group} has lost its offsets for {listed}. To go on with what the log still holds, stop all "
            f"workers and set them: kafka-consumer-groups.sh --group {group} --all-topics --reset-offsets "
            "--to-earliest --execute"
        )
