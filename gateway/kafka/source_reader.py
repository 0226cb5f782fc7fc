"""Reads single records back from the log: a submission at its source, a dead letter at its place.

One consumer, made when it is first needed, used by one caller at a time from worker threads. None says that Kafka no
longer holds the record; Retryable, that Kafka did not answer in time.
"""

import threading
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headrace.contract.records import Record, Source
from headrace.errors import Retryable
from headrace.kafka.client import SHORT_FETCH, Kafka

_TIMEOUT_S = 3.0
_GONE = {
    KafkaError._AUTO_OFFSET_RESET,
    KafkaError._PARTITION_EOF,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
}


class SourceReader:
    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._lock = threading.Lock()
        self._consumer: Consumer | None = None

    def read(self, source: Source) -> Record | None:
        """The record at that place. Blocks up to three seconds."""
        with self._lock:
            consumer = self._consumer = self._consumer or self._kafka.consumer(None, **SHORT_FETCH)
            try:
                consumer.assign([TopicPartition(self._kafka.topic(source.topic), source.partition, source.offset)])
                return self._poll(consumer, source)
            except KafkaException as e:
                raise Retryable(f"Kafka did not give the record {source}: {e.args[0].str()}") from None
            finally:
                consumer.unassign()

    def close(self) -> None:
        with self._lock:
            if self._consumer is not None:
                self._consumer.close()
                self._consumer = None

    def _poll(self, consumer: Consumer, source: Source) -> Record | None:
        deadline = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < deadline:
            message = consumer.poll(0.2)
            if message is None:
                continue
            error = message.error()
            if error is None:
                record = self._kafka.record(message)
                return record if record.offset == source.offset else None  # the next one there is: ours is gone
            if error.code() in _GONE:
                return None
            raise KafkaException(error)
        raise Retryable(f"Kafka did not give the record {source} in time")
