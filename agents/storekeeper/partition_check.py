"""Whether an outcome lies where its id's outcomes lie. PROTOCOL: one partition of `results` decides for an id.

Asked by the arbiter, in its one thread. An outcome elsewhere is forged, or of a producer with another partitioner: two
storekeepers could take two different ones for the first. KafkaException when Kafka does not answer.
"""

from headrace.kafka.client import Kafka
from headrace.kafka.partitioner import partition_of

_ANSWER_S = 10.0


class PartitionCheck:
    """Knows how many partitions `results` has."""

    def __init__(self, kafka: Kafka) -> None:
        self._name = kafka.topic("results")
        self._admin = kafka.admin()
        self._count = 0

    def is_home(self, task_id: str, partition: int) -> bool:
        """False only after Kafka has been asked: the topic may have grown."""
        if self._count and partition_of(task_id.encode(), self._count) == partition:
            return True
        self._count = len(self._admin.list_topics(self._name, timeout=_ANSWER_S).topics[self._name].partitions)
        return not self._count or partition_of(task_id.encode(), self._count) == partition
