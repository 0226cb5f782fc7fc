"""Reads the storekeeper's own outputs to their end into its index, before it judges outcomes of a new partition.

The partition's previous owner may have sent terminal events that this index does not have; without this step the
storekeeper would send a second one. Blocking, called in the storekeeper's working thread. KafkaException and Retryable
mean: try again.
"""

from collections.abc import Iterable, Sequence

from confluent_kafka import Consumer, Message

from headrace.contract.ids import id_of_key
from headrace.contract.records import Place
from headrace.errors import Undecodable
from headrace.kafka.client import SHORT_FETCH, Kafka
from headrace.kafka.metadata import installation_name
from headrace.kafka.reading import ANSWER_S, log_bounds, read_batches, readable_whole
from headrace.process.throttled_log import log_throttled

from .terminal_index import OUTPUTS, IndexEntry, TerminalIndex

_BATCH = 5000


class IndexCatchup:
    """Keeps one consumer without a group for all its readings."""

    def __init__(self, kafka: Kafka, index: TerminalIndex) -> None:
        self._kafka, self._index = kafka, index
        self._admin = kafka.admin()
        self._consumer: Consumer | None = None

    def catch_up(self, partitions: Iterable[int]) -> int:
        """Brings the index up to the end of both outputs in those partitions; returns how many events it read."""
        if self._consumer is None:
            self._consumer = self._kafka.consumer(None, **SHORT_FETCH)
        consumer = self._consumer
        self._index.adopt(installation_name(consumer, self._kafka, OUTPUTS[0], ANSWER_S))
        places = [(topic, p) for topic in OUTPUTS for p in partitions]
        # A terminal event that an open transaction hides would be sent a second time.
        readable_whole(self._kafka, self._admin, places)
        known = self._index.positions()
        ranges: dict[Place, tuple[int, int]] = {}
        for place, (low, high) in log_bounds(self._kafka, consumer, places).items():
            ranges[place] = max(low, min(known.get(place, low), high)), high
            if low > 0 and known.get(place, 0) < low:
                self._index.forget_before(place, low)
        self._index.add_entries((), {place: begin for place, (begin, _) in ranges.items()})
        count = sum(self._index_batch(b) for b in read_batches(self._kafka, consumer, ranges, most=_BATCH))
        self._index.filled()
        return count

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _index_batch(self, messages: Sequence[Message]) -> int:
        entries: list[IndexEntry] = []
        positions: dict[Place, int] = {}
        for record in map(self._kafka.record, messages):
            positions[record.topic, record.partition] = record.offset + 1
            task_id = id_of_key(record.key)
            if task_id is None:
                log_throttled("output", "%s passed over: %s", record.source, Undecodable("no task id as its key"))
                continue
            entries.append((task_id, record.topic, record.partition, record.offset))
        self._index.add_entries(entries, positions)
        return len(entries)
