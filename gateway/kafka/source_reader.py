"""Reads single records back from the log: a submission at its source, or a dead letter at its offset.

Handlers call it in worker threads. One consumer, made on first use, serves one caller at a time. A record that Kafka no
longer holds is None; Retryable when Kafka does not answer in time.
"""

import threading

from confluent_kafka import Consumer, KafkaException

from headrace.contract.records import Record, Source
from headrace.errors import Retryable
from headrace.kafka.client import SHORT_FETCH, Kafka
from headrace.kafka.reading import error_text, fetch_record

_TIMEOUT_S = 3.0


class SourceReader:
    """Reads records by topic, partition and offset."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._lock = threading.Lock()
        self._consumer: Consumer | None = None

    def read_record(self, source: Source) -> Record | None:
        """The record at `source`, or None when Kafka no longer holds it. Blocks up to three seconds; Retryable."""
        with self._lock:
            self._consumer = self._consumer or self._kafka.consumer(None, **SHORT_FETCH)
            try:
                return fetch_record(self._kafka, self._consumer, source, _TIMEOUT_S)
            except KafkaException as e:
                raise Retryable(f"Kafka did not return the record {source}: {error_text(e)}") from None

    def close(self) -> None:
        with self._lock:
            if self._consumer is not None:
                self._consumer.close()
                self._consumer = None
