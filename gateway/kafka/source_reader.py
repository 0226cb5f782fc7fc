"""Reads single records back from the log: a submission at its source, a dead letter at its place.

One consumer, made when it is first needed, used by one caller at a time from worker threads. None says that Kafka no
longer holds the record; Retryable, that Kafka did not answer in time.
"""

import threading

from confluent_kafka import Consumer, KafkaException

from headrace.contract.records import Record, Source
from headrace.errors import Retryable
from headrace.kafka.client import SHORT_FETCH, Kafka
from headrace.kafka.reading import fetch_record, words_of

_TIMEOUT_S = 3.0


class SourceReader:
    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._lock = threading.Lock()
        self._consumer: Consumer | None = None

    def read(self, source: Source) -> Record | None:
        """The record at that place. Blocks up to three seconds."""
        with self._lock:
            self._consumer = self._consumer or self._kafka.consumer(None, **SHORT_FETCH)
            try:
                return fetch_record(self._kafka, self._consumer, source, _TIMEOUT_S)
            except KafkaException as e:
                raise Retryable(f"Kafka did not give the record {source}: {words_of(e)}") from None

    def close(self) -> None:
        with self._lock:
            if self._consumer is not None:
                self._consumer.close()
                self._consumer = None
