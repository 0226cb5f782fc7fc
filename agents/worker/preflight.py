"""What a worker node checks before it starts: Kafka has its topics, and its group has not lost its offsets.

Called by `agents.worker.node`. Both wait as long as Kafka is away.
"""

import time
from collections.abc import Callable, Iterable

from confluent_kafka import KafkaException

from headrace.errors import Retryable, UsageError
from headrace.kafka.client import Kafka
from headrace.kafka.lag import LagWatch
from headrace.kafka.metadata import partitions_of
from headrace.process.throttled_log import log_throttled

_RETRY_S = 0.5


def wait_for_topics(kafka: Kafka, topics: Iterable[str], meanwhile: Callable[[], object]) -> None:
    """Returns when Kafka has the topics: without them Faust would spin. `meanwhile` is called before each look."""
    admin, names = kafka.admin(), [kafka.topic(t) for t in topics]
    while True:
        meanwhile()
        try:
            found = partitions_of(admin, names, 5)
            missing = [name for name in names if name not in found]
            if not missing:
                return
            log_throttled(
                "topics", "Waiting for the topics %s: create them with `headrace topics apply`", ", ".join(missing)
            )
        except KafkaException as e:
            log_throttled("no kafka", "Waiting for Kafka at %s: %s", kafka.bootstrap, e.args[0].str())
        time.sleep(_RETRY_S)


def check_offsets(lag: LagWatch, group: str) -> None:
    """UsageError when the group has read partitions before and no longer has committed offsets for them."""
    while True:
        try:
            lost = lag.lost_offsets()
            break
        except Retryable as e:
            log_throttled("no kafka", "Waiting for the offsets of group %s: %s", group, e)
            time.sleep(_RETRY_S)
    if lost:
        listed = ", ".join(f"{topic} {partition}" for topic, partition in sorted(lost))
        raise UsageError(
            f"group {group} has lost its offsets for {listed}. To continue with what the topics still hold, stop all "
            f"workers and reset the offsets: kafka-consumer-groups.sh --group {group} --all-topics --reset-offsets "
            "--to-earliest --execute"
        )
