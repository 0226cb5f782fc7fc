"""Reads single records back from the log: a submission at its source, or a dead letter at its offset.

Handlers call it in worker threads. One consumer, made on first use, serves one caller at a time; between two callers
the gateway's probe takes what librdkafka keeps for it, or an outage would fill the memory with errors. A record that
Kafka no longer holds is None; Retryable when Kafka does not answer in time.
"""

import contextlib
import threading

from confluent_kafka import Consumer, KafkaException

from headrace.contract.records import Record, Source
from headrace.errors import Retryable
from headrace.kafka.client import SHORT_FETCH, Kafka
from headrace.kafka.reading import error_text, fetch_record

_TIMEOUT_S = 3.0
_MOST_ERRORS = 10_000  # at once; some tens come in a second


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

    def drop_errors(self) -> None:
        """To be called every few seconds: takes what librdkafka keeps for an idle consumer. Waits for nobody."""
        if not self._lock.acquire(blocking=False):
            return  # it is in use, so it is polled
        try:
            if self._consumer is not None:
                with contextlib.suppress(KafkaException):
                    self._consumer.consume(_MOST_ERRORS, 0)
        finally:
            self._lock.release()

    def close(self) -> None:
        with self._lock:
            if self._consumer is not None:
                self._consumer.close()
                self._consumer = None
