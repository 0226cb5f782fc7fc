"""Checks that an outcome is in its task id's partition of `results`: one partition decides for an id (the protocol).

Used by the arbiter, in its one thread. An outcome elsewhere is forged, or its producer uses another partitioner. Two
storekeepers could otherwise each take a different outcome for the first. KafkaException when Kafka does not answer.
"""

from headrace.kafka.client import Kafka
from headrace.kafka.partitioner import partition_of

_ANSWER_S = 10.0


class PartitionCheck:
    """Keeps the number of partitions of `results`."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._topic = kafka.topic("results")
        self._count = 0

    def belongs_in(self, task_id: str, partition: int) -> bool:
        """Whether outcomes of the task belong in `partition`.

        Before it returns False it asks Kafka for the number of partitions again, as the topic may have grown.
        """
        if self._count and partition_of(task_id.encode(), self._count) == partition:
            return True
        self._count = len(
            self._kafka.admin().list_topics(self._topic, timeout=_ANSWER_S).topics[self._topic].partitions
        )
        return not self._count or partition_of(task_id.encode(), self._count) == partition
