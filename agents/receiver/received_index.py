"""Which tasks `lifecycle.received` holds already, within the window of repeats.

The receiver asks it before it announces a task. It catches up after each rebalance, because a partition's owner before
may have announced tasks without committing their offsets. `catch_up` blocks, and fails with KafkaException or
TimeoutError when Kafka does not answer: call it again.
"""

import math
import time

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from agents.intake.deduplication import DedupWindow
from headrace.contract.ids import id_of_key
from headrace.kafka.client import SHORT_FETCH, Kafka

TOPIC = "lifecycle.received"
# At least so many ids are kept and at most twice as many: 8 MB, and 0.5 s to read back. The protocol's window is
# 100,000 a partition.
MAX_IDS = 200_000
WINDOW_S = 3600
_ANSWER_S = 10.0
_BATCH = 10_000


class ReceivedIndex:
    """Used by one thread at a time."""

    def __init__(self, kafka: Kafka, max_ids: int = MAX_IDS) -> None:
        self._kafka = kafka
        self._max_ids = max_ids
        self._ids = DedupWindow(max_ids, math.inf)  # some 16 bytes each, where whole ids took 150
        self._next_offsets: dict[int, int] = {}
        self._consumer: Consumer | None = None

    def add_new_id(self, task_id: str) -> bool:
        """Adds the id if it is new; returns whether it was."""
        if self._ids.has_seen(task_id, 1):
            return False
        self._ids.add_task(task_id, 1, 0)
        return True

    def catch_up(self) -> int:
        """Reads what is new since the last call, or the whole window at first; returns the number of records."""
        if self._consumer is None:
            self._consumer = self._kafka.consumer(None, **SHORT_FETCH)
        consumer, name = self._consumer, self._kafka.topic(TOPIC)
        starts = self._window_starts(consumer, name)
        behind: dict[int, int] = {}
        for partition, start in starts.items():
            low, end = consumer.get_watermark_offsets(TopicPartition(name, partition), timeout=_ANSWER_S)
            share = end - self._max_ids // len(starts)
            starts[partition] = max(low, share, self._next_offsets.get(partition, start))
            if starts[partition] < end:
                behind[partition] = end
        consumer.assign([TopicPartition(name, p, starts[p]) for p in behind])
        count = 0
        while behind:
            first = consumer.poll(_ANSWER_S)
            if first is None:
                raise TimeoutError(f"{TOPIC} could not be read to its end")
            # With a timeout, `consume` would wait for a full batch.
            count += sum(self._add_message(m, behind) for m in (first, *consumer.consume(_BATCH, timeout=0)))
        consumer.unassign()
        return count

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _window_starts(self, consumer: Consumer, name: str) -> dict[int, int]:
        """The offset in each partition where the last hour begins."""
        found = consumer.list_topics(name, timeout=_ANSWER_S).topics[name]
        if found.error is not None:
            raise KafkaException(found.error)
        since_ms = int((time.time() - WINDOW_S) * 1000)
        asked = [TopicPartition(name, p, since_ms) for p in found.partitions]
        return {at.partition: at.offset for at in consumer.offsets_for_times(asked, timeout=_ANSWER_S)}

    def _add_message(self, message: Message, behind: dict[int, int]) -> int:
        """Removes its partition from `behind` when that is read to its end. Returns 1 for a record, otherwise 0."""
        error, partition = message.error(), message.partition() or 0
        if error is not None:
            if error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            behind.pop(partition, None)
            return 0
        following = (message.offset() or 0) + 1
        self._next_offsets[partition] = following
        if following >= behind.get(partition, OFFSET_END):
            behind.pop(partition, None)
        key = message.key()
        task_id = id_of_key(key.encode() if isinstance(key, str) else key)
        if task_id is not None:
            self.add_new_id(task_id)
        return 1
