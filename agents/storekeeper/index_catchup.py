"""Reads the storekeeper's own outputs to their end into its index, before it judges a partition that it was given.

Whoever had the partition before may have sent events that this index has not seen: without this step a second terminal
event would follow. Blocking, called from a thread of its own; KafkaException and TimeoutError mean: try again.
"""

import time
from collections.abc import Iterable, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from agents.storekeeper.terminal_index import OUTPUTS, TerminalIndex, Written
from headrace.contract.ids import id_of_key
from headrace.contract.records import Place
from headrace.errors import Undecodable
from headrace.kafka.client import SHORT_FETCH, Kafka, log_throttled
from headrace.kafka.metadata import installation

_ANSWER_S = 10.0
_GATHER_S = 0.05
_BATCH = 5000


class IndexCatchup:
    """Keeps one consumer without a group for all its readings."""

    def __init__(self, kafka: Kafka, index: TerminalIndex) -> None:
        self._kafka, self._index = kafka, index
        self._consumer: Consumer | None = None

    def read(self, partitions: Iterable[int]) -> int:
        """Brings the index up to the end of both outputs in those partitions; returns how many events it read."""
        if self._consumer is None:
            self._consumer = self._kafka.consumer(None, **SHORT_FETCH)
        consumer = self._consumer
        self._index.adopt(installation(consumer, self._kafka, OUTPUTS[0], _ANSWER_S))
        known = self._index.positions()
        ends: dict[Place, int] = {}
        begins: dict[Place, int] = {}
        for place in ((topic, p) for topic in OUTPUTS for p in partitions):
            at = TopicPartition(self._kafka.topic(place[0]), place[1])
            low, high = consumer.get_watermark_offsets(at, timeout=_ANSWER_S)
            begins[place], ends[place] = max(low, min(known.get(place, low), high)), high
            if low > 0 and known.get(place, 0) < low:
                self._index.forget_before(place, low)
        self._index.add((), begins)
        behind = {place for place in ends if begins[place] < ends[place]}
        consumer.assign([TopicPartition(self._kafka.topic(t), p, begins[t, p]) for t, p in behind])
        count = 0
        deadline = time.monotonic() + _ANSWER_S
        while behind:
            # `consume` waits until it has as many as asked for: the short time is what a tail costs at most.
            messages = consumer.consume(_BATCH, timeout=_GATHER_S)
            if messages:
                deadline = time.monotonic() + _ANSWER_S
                count += self._take(messages, behind, ends)
            elif time.monotonic() > deadline:
                raise TimeoutError("the storekeeper's own outputs could not be read to their end")
        consumer.unassign()
        return count

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _take(self, messages: Sequence[Message], behind: set[Place], ends: dict[Place, int]) -> int:
        written: list[Written] = []
        positions: dict[Place, int] = {}
        for message in messages:
            place = (self._kafka.unprefixed(message.topic() or ""), message.partition() or 0)
            if (error := message.error()) is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                behind.discard(place)
                continue
            record = self._kafka.record(message)
            positions[place] = record.offset + 1
            task_id = id_of_key(record.key)
            if task_id is None:
                log_throttled("output", "%s passed over: %s", record.source, Undecodable("no task id as its key"))
                continue
            written.append((task_id, record.topic, record.partition, record.offset))
        self._index.add(written, positions)
        behind.difference_update({place for place, following in positions.items() if following >= ends[place]})
        return len(written)
