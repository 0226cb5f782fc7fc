"""Where the records of an id can lie, although topics have been given more partitions.

Only the topics of the queue grow (docs/design/0038): an id's place in all others never changes. In the queue an id may
lie where it belongs now, and where it belonged under an earlier count. Each growth multiplies the count, so all earlier
counts follow from the first one, that of `results`, and the present one: nobody needs to remember them.

Used by every role that looks for an id. Only `read_partition_counts` asks Kafka.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from confluent_kafka import KafkaException

from headrace.contract.records import Place
from headrace.errors import Retryable
from headrace.kafka.client import Kafka
from headrace.kafka.metadata import partitions_of
from headrace.kafka.partitioner import partition_of

# In the order of their growth: a task is claimed in the partition of its source, so the journal's must be there first.
JOURNAL, TASK_TOPICS = "tasks.running", ("tasks.high", "tasks.normal")
QUEUE_TOPICS = (JOURNAL, *TASK_TOPICS)
_NEVER_GROWS = "results"


@dataclass(frozen=True, slots=True)
class PartitionCounts:
    """`home`: the partitions of each keyed topic outside the queue; `queue`: those of each topic of the queue."""

    home: int
    queue: Mapping[str, int]

    def places_of(self, task_id: str, topics: Iterable[str]) -> set[Place]:
        """Every place of these keyed topics where a record with that id as its key may have been put."""
        key = task_id.encode()
        return {(topic, partition_of(key, count)) for topic in topics for count in self._counts(topic)}

    def all_places(self, topics: Iterable[str]) -> set[Place]:
        """Every partition of these keyed topics."""
        return {(topic, p) for topic in topics for p in range(self.queue.get(topic, self.home))}

    def home_of(self, partition: int) -> int:
        """The partition outside the queue of ids whose partition in the queue is this one."""
        return partition % self.home

    def parents(self, place: Place) -> list[Place]:
        """The places of the same topic where ids of this place may have been put before it was there."""
        topic, partition = place
        earlier = {partition % count for count in self._counts(topic) if self._grew_from(topic, count)}
        return [(topic, p) for p in sorted(earlier - {partition})]

    def is_grown(self, place: Place) -> bool:
        """Whether the place was added by a growth."""
        return place[1] >= self.home

    def _counts(self, topic: str) -> list[int]:
        """The present count, and those that the topic may have had before."""
        now = self.queue.get(topic, self.home)
        between = (self.home * n for n in range(2, now // self.home) if now % (self.home * n) == 0)
        return sorted({self.home, *between, now})

    def _grew_from(self, topic: str, count: int) -> bool:
        return self.queue.get(topic, self.home) % count == 0


def read_partition_counts(kafka: Kafka, timeout_s: float, queue: Iterable[str] = TASK_TOPICS) -> PartitionCounts:
    """The counts as of now, with these topics of the queue; Retryable when Kafka does not answer or a topic is missing.

    A role that may not describe the journal, as the gateway, leaves it out.
    """
    names = {topic: kafka.topic(topic) for topic in (_NEVER_GROWS, *queue)}
    try:
        found = partitions_of(kafka.admin(), names.values(), timeout_s)
    except KafkaException as e:
        raise Retryable(f"the topics are not known: {e.args[0].str()}") from None
    if missing := [name for name in names.values() if not found.get(name)]:
        raise Retryable(f"the topic {missing[0]} is missing: run `headrace topics apply`")
    counts = {topic: len(found[name]) for topic, name in names.items()}
    return PartitionCounts(counts.pop(_NEVER_GROWS), counts)
