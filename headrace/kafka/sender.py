"""Sends records from any thread; a future tells when Kafka has acknowledged each. Every role sends through it.

No call waits for Kafka or for room, so that an event loop can send: what librdkafka's queue has no room for waits in
order in the sender. Memory is bounded by the work in flight, because callers wait for their futures before they send
more. Outages are waited for, up to the sender's time limit; a future then fails with Retryable.

`send` leaves a record that Kafka refuses to its caller, with Refused. `deliver` owns it until Kafka has it. Which
record of the protocol is sent how: docs/protocol.md, "Who owns a record until Kafka has it".
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from headrace.contract.records import Outgoing
from headrace.errors import Refused, Retryable
from headrace.kafka.client import Kafka, place_of_message
from headrace.kafka.held_records import HeldRecords, Receipt, Sending, Sent, Written
from headrace.kafka.refusals import Refusals, in_words, is_refusal
from headrace.process.throttled_log import log_throttled

__all__ = ["Receipt", "Sender", "Sent", "Written"]

_POLL_S = 0.1
_UNHURRIED_S = 0.05  # after it a record is sent at the next look, at most _POLL_S later
_ASK_S = 1.0  # for the partitions of a topic


def _always() -> bool:
    return True


class Sender:
    """A future for each record gives its (topic, partition, offset).

    `timeout_s` None waits through any outage. A future fails with Retryable when Kafka has not acknowledged in time;
    the record may still have been written. `close()` flushes. With `own_thread` False, delivery reports arrive in the
    thread that calls `serve`: for a caller that sends and then waits anyway this saves a change of threads. `options`
    are librdkafka's.
    """

    def __init__(self, kafka: Kafka, timeout_s: float | None = None, own_thread: bool = True, **options: Any) -> None:
        self._kafka, self._timeout_s = kafka, timeout_s
        timeout_ms = 0 if timeout_s is None else int(timeout_s * 1000)
        self._config = kafka.producer_config(**{"message.timeout.ms": timeout_ms} | options)
        self._producer = Producer(self._config)
        self._failed: list[Producer] = []  # that have failed for good, until all their reports have come
        self._renewing, self._counting = threading.Lock(), threading.Lock()
        self._in_flight = 0  # records that librdkafka has; its own count has errors in it that nobody has polled
        self._waiting: deque[Sending] = deque()  # for room in librdkafka's queue; the serving thread takes from it
        self._unhurried = deque[tuple[float, Sending]]()  # with the time when each is due
        self._held = HeldRecords()
        self._grown: set[str] = set()  # topics with a partition that librdkafka does not know
        self._refusals = Refusals(of_records=timeout_s is None)
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        if own_thread:
            self._thread = threading.Thread(target=self._run, name="kafka-sender", daemon=True)
            self._thread.start()

    def serve(self, timeout_s: float) -> None:
        """Polls delivery reports; returns as soon as some have arrived, or after `timeout_s`."""
        self._poll(self._producer, timeout_s)
        for failed in list(self._failed):
            self._poll(failed, 0)
            if not len(failed):
                self._failed.remove(failed)
        self._send_waiting()
        self._send_unhurried(time.monotonic())
        self._ask_for_partitions()
        for sending in self._held.take_due():
            self._produce_in_order(sending)

    def send(self, record: Outgoing, *, unhurried: bool = False) -> Sent:
        """Sends it once. The future fails with Refused when Kafka does not take it: the caller decides what follows.

        An `unhurried` record may wait a tenth of a second to share a request with the next one that is sent.
        """
        done: Sent = Future()
        self.send_for(record, done, unhurried=unhurried)
        return done

    def send_for(self, record: Outgoing, receipt: Receipt, *, unhurried: bool = False) -> None:
        """`send` for a caller with a receipt of its own, which may cost less than a future."""
        expires_at = float("inf") if self._timeout_s is None else time.monotonic() + self._timeout_s
        sending = Sending(record, expires_at, done=receipt)
        if self._held.holds_key_of(record):
            receipt.set_exception(Refused(f"an earlier record for {record.topic} with the same key waits"))
        elif unhurried and not self._closing.is_set():
            self._unhurried.append((time.monotonic() + _UNHURRIED_S, sending))
        else:
            self._produce_in_order(sending)
            self._send_unhurried(float("inf"))

    def deliver(self, record: Outgoing, wanted: Callable[[], bool] = _always) -> Sent:
        """Owns the record: sends it again until Kafka has it, whatever Kafka says, in the order of its key.

        Meanwhile `check` says what is wrong. `wanted` is asked before it is sent again; once false, the future is
        cancelled. Otherwise the future never fails.
        """
        done: Sent = Future()
        sending = Sending(record, float("inf"), wanted, done)
        if self._held.holds_key_of(record):
            self._held.hold(sending)
        else:
            self._produce_in_order(sending)
            self._send_unhurried(float("inf"))
        return done

    def check(self) -> str | None:
        """For the role's health: what Kafka refuses, and what to change."""
        if self._thread is not None and not self._thread.is_alive() and not self._closing.is_set():
            return "the thread that sends records has ended: restart the role"
        return self._refusals.check()

    def send_all(self, records: Iterable[Outgoing], timeout_s: float | None = None) -> list[tuple[str, int, int]]:
        """Sends all and returns their places once Kafka has acknowledged every one; TimeoutError or Retryable."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        futures = [self.send(r) for r in records]
        return [f.result(None if deadline is None else max(0.0, deadline - time.monotonic())) for f in futures]

    def close(self, timeout_s: float = 10.0) -> int:
        """Flushes for at most `timeout_s`; returns how many records are still unsent."""
        deadline = time.monotonic() + timeout_s
        self._closing.set()
        if self._thread is not None:
            self._thread.join(5)
        self._send_unhurried(float("inf"))
        while self._waiting and time.monotonic() < deadline:
            self.serve(_POLL_S)
        while self._in_flight and (left_s := deadline - time.monotonic()) > 0:
            self._poll(self._producer, min(left_s, _POLL_S))
        return self._in_flight + len(self._waiting) + len(self._held)

    def _run(self) -> None:
        while not self._closing.is_set():
            self.serve(_POLL_S)

    def _produce_in_order(self, sending: Sending) -> None:
        if self._waiting or not self._produce(sending):
            self._waiting.append(sending)

    def _send_unhurried(self, now: float) -> None:
        """Those that were due by `now`. From any thread: a record is taken before it is sent."""
        while self._unhurried and self._unhurried[0][0] <= now:
            try:
                _, sending = self._unhurried.popleft()
            except IndexError:  # another thread has taken it
                return
            self._produce_in_order(sending)

    def _send_waiting(self) -> None:
        """Taken from the queue only after it is sent: a caller that sends meanwhile must find it there, and wait."""
        while self._waiting:
            first = self._waiting[0]
            if first.expires_at < time.monotonic():
                self._fail(first, Retryable("Kafka has not accepted the record: it has waited too long for room"))
            elif not first.done.cancelled() and not self._produce(first):
                return
            self._waiting.popleft()

    def _produce(self, sending: Sending) -> bool:
        """Hands it to librdkafka; returns False when its queue is full."""
        record, producer = sending.record, self._producer
        self._count(1)
        arguments: dict[str, Any] = {"partition": record.partition} if record.partition >= 0 else {}
        try:
            producer.produce(
                self._kafka.topic(record.topic),
                record.value,
                key=record.key,
                headers=list(record.headers),
                on_delivery=partial(self._on_delivery, sending),
                **arguments,
            )
        except BufferError:  # delivery reports make room
            self._count(-1)
            return False
        except KafkaException as e:
            self._count(-1)
            if e.args[0].code() == KafkaError._FATAL:
                self._renew(producer, e.args[0])
            self._on_error(sending, e.args[0])
        return True

    def _count(self, change: int) -> None:
        with self._counting:
            self._in_flight += change

    def _on_delivery(self, sending: Sending, error: KafkaError | None, message: Message) -> None:
        self._count(-1)
        if error is not None:
            self._on_error(sending, error)
            return
        topic, partition, offset = place_of_message(message)
        if offset < 0 and not sending.done.cancelled():
            # The broker reports a later sequence number of ours, and librdkafka concludes that it has this record
            # too. It has not when a new leader refused the first record to a partition and then took the second,
            # which was already on its way (seen with 2.16.1). Sending it again does no harm: readers drop repeats.
            log_throttled("no offset", "a record for %s was acknowledged without an offset: sent again", topic)
            self._produce_in_order(sending)
            return
        self._held.release(sending)
        if sending.done.set_running_or_notify_cancel():
            written = Written((self._kafka.unprefixed(topic), partition, offset))
            written.timestamp_ms = message.timestamp()[1]
            sending.done.set_result(written)

    def _on_error(self, sending: Sending, error: KafkaError) -> None:
        topic = self._kafka.topic(sending.record.topic)
        if error.code() == KafkaError._UNKNOWN_PARTITION and not sending.has_waited_for_partition:
            sending.has_waited_for_partition = True
            self._grown.add(topic)
            self._held.hold(sending)
            return
        if is_refusal(error):
            self._refusals.note(topic, error)
        if sending.is_owned:
            log_throttled(f"held {topic} {error.name()}", "A record for %s is sent again: %s", topic, error.str())
            self._held.hold(sending)
        elif is_refusal(error):
            self._fail(sending, Refused(in_words(topic, error)))
        else:
            self._fail(sending, Retryable(f"Kafka has not accepted the record: {error.str()}"))

    def _ask_for_partitions(self) -> None:
        """A topic that has grown has partitions which librdkafka would hear of only at its next look."""
        while self._grown:
            topic = self._grown.pop()
            with contextlib.suppress(KafkaException):
                self._producer.list_topics(topic, timeout=_ASK_S)

    def _fail(self, sending: Sending, error: Retryable) -> None:
        self._held.release(sending)
        if sending.done.set_running_or_notify_cancel():
            sending.done.set_exception(error)

    def _poll(self, producer: Producer, timeout_s: float) -> None:
        try:
            producer.poll(timeout_s)
        except KafkaException as e:  # the client has had a fatal error
            self._renew(producer, e.args[0])

    def _renew(self, failed: Producer, error: KafkaError) -> None:
        """Makes a new client after a fatal error: librdkafka's old one takes no record any more, and may keep those
        that it has."""
        with self._renewing:
            if self._producer is not failed:
                return
            log_throttled("fatal", "Kafka's client has failed and is made anew: %s", error.str())
            self._failed.append(failed)
            self._producer = Producer(self._config)
        failed.purge(blocking=False)
