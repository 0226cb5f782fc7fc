"""Which tasks `lifecycle.received` holds already, as far back as repeats are looked for.

The receiver asks it before it tells of a task, and has it catch up after each rebalance: whoever had a partition
before may have told of tasks whose offsets it never committed. `catch_up` blocks, and fails with KafkaException or
TimeoutError when Kafka does not answer: call it again.
"""

import math
import time

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from agents.intake.deduplication import DedupWindow
from headrace.contract.ids import id_of_key
from headrace.kafka.client import SHORT_FETCH, Kafka

TOPIC = "lifecycle.received"
# Ids kept at least, and up to twice as many: at most 8 MB, and 0.5 s to read back. PROTOCOL's window is 100,000 a
# partition.
MOST = 200_000
WINDOW_S = 3600
_ANSWER_S = 10.0
_BATCH = 10_000


class ReceivedIndex:
    """Used by one thread at a time."""

    def __init__(self, kafka: Kafka, most: int = MOST) -> None:
        self._kafka = kafka
        self._most = most
        self._ids = DedupWindow(most, math.inf)  # 8 bytes and as many spare each, where whole ids took 150
        self._positions: dict[int, int] = {}
        self._consumer: Consumer | None = None

    def add(self, task_id: str) -> bool:
        """Notes it, and says whether it is new."""
        if self._ids.seen(task_id, 1):
            return False
        self._ids.add(task_id, 1, 0)
        return True

    def catch_up(self) -> int:
        """Reads what has come to the topic since the last call; at first what the window holds. Returns how much."""
        if self._consumer is None:
            self._consumer = self._kafka.consumer(None, **SHORT_FETCH)
        consumer, name = self._consumer, self._kafka.topic(TOPIC)
        starts = self._window(consumer, name)
        behind: dict[int, int] = {}
        for partition, start in starts.items():
            low, end = consumer.get_watermark_offsets(TopicPartition(name, partition), timeout=_ANSWER_S)
            fair = end - self._most // len(starts)
            starts[partition] = max(low, fair, self._positions.get(partition, start))
            if starts[partition] < end:
                behind[partition] = end
        consumer.assign([TopicPartition(name, p, starts[p]) for p in behind])
        count = 0
        while behind:
            first = consumer.poll(_ANSWER_S)
            if first is None:
                raise TimeoutError(f"{TOPIC} could not be read to its end")
            # What is there, without waiting: with a timeout `consume` would wait for the batch to be full.
            count += sum(self._take_in(m, behind) for m in (first, *consumer.consume(_BATCH, timeout=0)))
        consumer.unassign()
        return count

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _window(self, consumer: Consumer, name: str) -> dict[int, int]:
        """Per partition the offset where the last hour begins."""
        found = consumer.list_topics(name, timeout=_ANSWER_S).topics[name]
        if found.error is not None:
            raise KafkaException(found.error)
        since_ms = int((time.time() - WINDOW_S) * 1000)
        asked = [TopicPartition(name, p, since_ms) for p in found.partitions]
        return {at.partition: at.offset for at in consumer.offsets_for_times(asked, timeout=_ANSWER_S)}

    def _take_in(self, message: Message, behind: dict[int, int]) -> int:
        error, partition = message.error(), message.partition() or 0
        if error is not None:
            if error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            behind.pop(partition, None)
            return 0
        following = (message.offset() or 0) + 1
        self._positions[partition] = following
        if following >= behind.get(partition, OFFSET_END):
            behind.pop(partition, None)
        key = message.key()
        task_id = id_of_key(key.encode() if isinstance(key, str) else key)
        if task_id is not None:
            self.add(task_id)
        return 1
