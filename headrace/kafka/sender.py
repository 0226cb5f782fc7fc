"""Sends records from any thread; a future tells when Kafka has acknowledged each. Every role sends through it.

Outages are waited for, up to the sender's time limit; a future then fails with Retryable.
"""

import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from headrace.contract.records import Outgoing
from headrace.errors import Retryable
from headrace.kafka.client import Kafka, place_of_message
from headrace.process.throttled_log import log_throttled

Sent = Future[tuple[str, int, int]]  # (topic, partition, offset) once Kafka has the record

_POLL_S = 0.1


class Sender:
    """A future for each record gives its (topic, partition, offset).

    `timeout_s` None waits through any outage. A future fails with Retryable when Kafka has not acknowledged in time;
    the record may still have been written. `close()` flushes. With `own_thread` False, delivery reports arrive in the
    thread that calls `serve`: for a caller that sends and then waits anyway this saves a change of threads. `options`
    are librdkafka's.
    """

    def __init__(self, kafka: Kafka, timeout_s: float | None = None, own_thread: bool = True, **options: Any) -> None:
        self._kafka = kafka
        timeout_ms = 0 if timeout_s is None else int(timeout_s * 1000)
        self._producer = Producer(kafka.producer_config(**{"message.timeout.ms": timeout_ms} | options))
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        if own_thread:
            self._thread = threading.Thread(target=self._poll, name="kafka-sender", daemon=True)
            self._thread.start()

    def serve(self, timeout_s: float) -> None:
        """Polls delivery reports; returns as soon as some have arrived, or after `timeout_s`."""
        self._producer.poll(timeout_s)

    def send(self, record: Outgoing) -> Sent:
        done: Sent = Future()
        self._produce(record, done)
        return done

    def _produce(self, record: Outgoing, done: Sent) -> None:
        def on_delivery(error: KafkaError | None, message: Message) -> None:
            topic, partition, offset = place_of_message(message)
            if error is None and offset < 0 and not done.cancelled():
                # The broker reports a later sequence number of ours, and librdkafka concludes that it has this record
                # too. It has not when a new leader refused the first record to a partition and then took the second,
                # which was already on its way (seen with 2.16.1). Sending it again does no harm: readers drop repeats.
                log_throttled("no offset", "a record for %s was acknowledged without an offset: sent again", topic)
                self._produce(record, done)
            elif not done.set_running_or_notify_cancel():
                return
            elif error is not None:
                done.set_exception(Retryable(f"Kafka has not accepted the record: {error.str()}"))
            else:
                done.set_result((self._kafka.unprefixed(topic), partition, offset))

        arguments: dict[str, Any] = {"key": record.key, "headers": list(record.headers), "on_delivery": on_delivery}
        if record.partition >= 0:
            arguments["partition"] = record.partition
        while True:
            try:
                self._producer.produce(self._kafka.topic(record.topic), record.value, **arguments)
                return
            except BufferError:  # the queue is full: delivery reports make room
                self._producer.poll(0.005)
            except KafkaException as e:
                done.set_exception(Retryable(f"Kafka has not accepted the record: {e.args[0].str()}"))
                return

    def send_all(self, records: Iterable[Outgoing], timeout_s: float | None = None) -> list[tuple[str, int, int]]:
        """Sends all and returns their places once Kafka has acknowledged every one; TimeoutError or Retryable."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        futures = [self.send(r) for r in records]
        return [f.result(None if deadline is None else max(0.0, deadline - time.monotonic())) for f in futures]

    def close(self, timeout_s: float = 10.0) -> int:
        """Flushes for at most `timeout_s`; returns how many records are still unsent."""
        left: int = self._producer.flush(timeout_s)
        self._closing.set()
        if self._thread is not None:
            self._thread.join(5)
        return left

    def _poll(self) -> None:
        while not self._closing.is_set():
            self._producer.poll(_POLL_S)
