"""Which tasks `lifecycle.received` holds already, within the window of repeats.

The receiver asks it before it announces a task. It catches up after each rebalance, because a partition's owner before
may have announced tasks without committing their offsets. `catch_up` blocks, and fails with KafkaException or
Retryable when Kafka does not answer: call it again.
"""

import math
import time

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from headrace.contract.ids import id_of_key
from headrace.contract.records import Place
from headrace.kafka.client import SHORT_FETCH, Kafka
from headrace.kafka.reading import ANSWER_S, log_bounds, place_of, read_batches
from headrace.process.catching_up import CatchingUp

from ..intake.deduplication import DedupWindow

TOPIC = "lifecycle.received"
# At least so many ids are kept and at most twice as many: 8 MB, and 0.5 s to read back. The protocol's window is
# 100,000 a partition.
MAX_IDS = 200_000
WINDOW_S = 3600
_BATCH = 10_000


class ReceivedIndex:
    """Used by one thread at a time, but for `reading`: how far `catch_up` has come, for health."""

    def __init__(self, kafka: Kafka, max_ids: int = MAX_IDS) -> None:
        self._kafka = kafka
        self._max_ids = max_ids
        self._ids = DedupWindow(max_ids, math.inf)  # some 16 bytes each, where whole ids took 150
        self._next_offsets: dict[int, int] = {}
        self.reading = CatchingUp(lambda: {(TOPIC, p): at for p, at in self._next_offsets.copy().items()})
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
        consumer = self._consumer
        starts = self._window_starts(consumer, self._kafka.topic(TOPIC))
        ranges: dict[Place, tuple[int, int]] = {}
        for (_, partition), (low, end) in log_bounds(self._kafka, consumer, [(TOPIC, p) for p in starts]).items():
            share = end - self._max_ids // len(starts)
            ranges[TOPIC, partition] = max(low, share, self._next_offsets.get(partition, starts[partition])), end
        self.reading.begin_again()
        self.reading.begin({p: begin for p, (begin, _) in ranges.items()}, {p: end for p, (_, end) in ranges.items()})
        count = 0
        for batch in read_batches(self._kafka, consumer, ranges, most=_BATCH):
            for message in batch:
                self._add_message(message)
            count += len(batch)
        self.close()  # idle until the next rebalance, a consumer would only gather errors
        return count

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _window_starts(self, consumer: Consumer, name: str) -> dict[int, int]:
        """The offset in each partition where the last hour begins."""
        found = consumer.list_topics(name, timeout=ANSWER_S).topics[name]
        if found.error is not None:
            raise KafkaException(found.error)
        since_ms = int((time.time() - WINDOW_S) * 1000)
        asked = [TopicPartition(name, p, since_ms) for p in found.partitions]
        return {at.partition: at.offset for at in consumer.offsets_for_times(asked, timeout=ANSWER_S)}

    def _add_message(self, message: Message) -> None:
        (_, partition), offset = place_of(self._kafka, message)
        self._next_offsets[partition] = offset + 1
        key = message.key()
        task_id = id_of_key(key.encode() if isinstance(key, str) else key)
        if task_id is not None:
            self.add_new_id(task_id)
