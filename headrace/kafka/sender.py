"""Sends records from any thread and answers with futures; every role sends through it."""

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
    """Sends records from any thread; a future answers each with (topic, partition, offset).

    `timeout_s` None waits through any outage. A future fails with Retryable when Kafka has not acknowledged in time;
    the record may still have been written. `close()` flushes. With `own_thread` False the answers come in whichever
    thread calls `serve`: for one that sends and then waits anyway, a thread's turn less.
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
        """Lets answers come in; returns as soon as some have, or after that time."""
        self._producer.poll(timeout_s)

    def send(self, record: Outgoing) -> Sent:
        done: Sent = Future()
        self._produce(record, done)
        return done

    def _produce(self, record: Outgoing, done: Sent) -> None:
        def answered(error: KafkaError | None, message: Message) -> None:
            topic, partition, offset = place_of_message(message)
            if error is None and offset < 0 and not done.cancelled():
                # The broker says that it has a later one of ours there, which the client takes for "this one too". Not
                # so when the first record to a partition was refused for a moment (its leader is new) and the second,
                # already on its way, was taken: then this one is in no log (seen with 2.16.1). Twice does no harm.
                log_throttled("in no log", "a record for %s was acknowledged without a place and is sent again", topic)
                self._produce(record, done)
            elif not done.set_running_or_notify_cancel():
                return
            elif error is not None:
                done.set_exception(Retryable(f"Kafka has not taken the record: {error.str()}"))
            else:
                done.set_result((self._kafka.unprefixed(topic), partition, offset))

        arguments: dict[str, Any] = {"key": record.key, "headers": list(record.headers), "on_delivery": answered}
        if record.partition >= 0:
            arguments["partition"] = record.partition
        while True:
            try:
                self._producer.produce(self._kafka.topic(record.topic), record.value, **arguments)
                return
            except BufferError:  # the queue is full: answers make room
                self._producer.poll(0.005)
            except KafkaException as e:
                done.set_exception(Retryable(f"Kafka has not taken the record: {e.args[0].str()}"))
                return

    def send_all(self, records: Iterable[Outgoing], timeout_s: float | None = None) -> list[tuple[str, int, int]]:
        """Sends and waits for every answer; TimeoutError or Retryable when one is missing."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        futures = [self.send(r) for r in records]
        return [f.result(None if deadline is None else max(0.0, deadline - time.monotonic())) for f in futures]

    def close(self, timeout_s: float = 10.0) -> int:
        """Flushes; returns how many records are still unsent."""
        left: int = self._producer.flush(timeout_s)
        self._closing.set()
        if self._thread is not None:
            self._thread.join(5)
        return left

    def _poll(self) -> None:
        while not self._closing.is_set():
            self._producer.poll(_POLL_S)
