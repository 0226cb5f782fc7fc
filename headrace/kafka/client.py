"""Clients of Kafka: one place that knows addresses, security, the partitioner and how records are sent and read.

Every role makes its plain clients here. `Sender` sends from any thread and answers with futures. What the network does
is not raised but waited for: librdkafka reconnects by itself, and its complaints are logged once a minute at most.
"""

import logging
import operator
import struct
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient

from headrace.contract.records import UNREADABLE_NAME, Outgoing, Record
from headrace.errors import Retryable, Undecodable, UsageError
from headrace.kafka.groups import NO_GROUP
from headrace.settings import Settings

log = logging.getLogger(__name__)

Sent = Future[tuple[str, int, int]]  # (topic, partition, offset) once Kafka has the record

_LOG_EVERY_S = 60.0  # an outage is one line a minute, not fifty a second
_POLL_S = 0.1

# For a consumer that is assigned again and again: a fetch that finds nothing holds up the next reading so long.
SHORT_FETCH = {"fetch.wait.max.ms": 10}


class Throttle:
    """Lets one message of each kind through a minute, and counts what it held back."""

    def __init__(self, every_s: float = _LOG_EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s, self._clock = every_s, clock
        self._last: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def passes(self, kind: str) -> int | None:
        """How many were held back since the last that passed, or None when this one is held back too."""
        now = self._clock()
        if now - self._last.get(kind, -1e9) < self._every_s:
            self._held[kind] = self._held.get(kind, 0) + 1
            return None
        self._last[kind] = now
        return self._held.pop(kind, 0)


_throttle = Throttle()


def log_throttled(kind: str, message: str, *args: object) -> None:
    """Logs a warning, once a minute for each `kind`, and says how many there were in between."""
    held = _throttle.passes(kind)
    if held is not None:
        log.warning(message + (f" ({held} more like it since)" if held else ""), *args)


def _on_error(error: KafkaError) -> None:
    log_throttled(error.name(), "Kafka: %s", error.str())


class _ThrottledLogger(logging.Logger):
    """What librdkafka itself logs, at the rate of `log_throttled`."""

    def handle(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        kind = text.split(" ", 1)[0].strip("%0123456789|.")[:40]
        log_throttled("librdkafka " + kind, "%s", text)


class Kafka:
    """One installation on one cluster: its addresses, security and prefix."""

    def __init__(self, settings: Settings, client_id: str) -> None:
        if not settings.kafka:
            raise UsageError(
                "HEADRACE_KAFKA is not set: give the bootstrap servers, such as 127.0.0.1:9092, or use `headrace up`"
            )
        self.prefix = settings.topic_prefix
        self.bootstrap = settings.kafka
        self.security = load_security(settings.kafka_security)
        self._base: dict[str, Any] = {
            "bootstrap.servers": settings.kafka,
            "client.id": client_id,
            "error_cb": _on_error,
            "logger": _ThrottledLogger("librdkafka"),
            "socket.nagle.disable": True,
            "reconnect.backoff.max.ms": 1000,  # back within a second of the broker
            **self.security,
        }

    def topic(self, name: str) -> str:
        return self.prefix + name

    group = topic

    def unprefixed(self, topic: str) -> str:
        return topic.removeprefix(self.prefix)

    def producer_config(self, **options: Any) -> dict[str, Any]:
        return (
            self._base
            | {
                "acks": "all",
                "enable.idempotence": True,
                "partitioner": "murmur2_random",  # Java's, and kcat's with -X topic.partitioner
                "message.max.bytes": 2_097_152,
                "linger.ms": 0,
                "queue.buffering.max.kbytes": 131_072,
            }
            | options
        )

    def consumer(self, group: str | None = None, **options: Any) -> Consumer:
        """A consumer that never commits by itself. Without a group its offsets are the caller's own business."""
        return Consumer(
            self._base
            | {
                "group.id": self.group(group or NO_GROUP),
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "error",  # never silently start over
                "enable.partition.eof": group is None,
                "fetch.error.backoff.ms": 100,
                "queued.max.messages.kbytes": 16_384,  # memory does not grow with the queue's length
                "topic.metadata.refresh.interval.ms": 60_000,
            }
            | options
        )

    def admin(self) -> AdminClient:
        return AdminClient(self._base)

    def record(self, message: Message) -> Record:
        return record_of(message, self.prefix)


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


# Of a name that is no UTF-8 the client makes a pair with a hole, and leaves the exception pending. This way of calling,
# other than the interpreter's own shortcut, looks for pending ones; whoever went on to use the pair would crash.
_headers = operator.methodcaller("headers")


def record_of(message: Message, prefix: str = "") -> Record:
    """What a consumed message is to our messages."""
    key, value = message.key(), message.value()
    topic, partition, offset = place_of_message(message)
    given: Any
    try:
        given = _headers(message) or ()  # a list of pairs, also where the client's types say dict
        headers = tuple((k, v if v is not None else b"") for k, v in given)
    except (SystemError, UnicodeDecodeError):  # then the client gives none of them
        headers = ((UNREADABLE_NAME, b""),)
    return Record(
        topic=topic.removeprefix(prefix),
        partition=partition,
        offset=offset,
        timestamp_ms=message.timestamp()[1],
        key=key.encode() if isinstance(key, str) else key,
        value=value.encode() if isinstance(value, str) else value,
        headers=headers,
    )


def place_of_message(message: Message) -> tuple[str, int, int]:
    """(topic with its prefix, partition, offset) of a message or of what a consumer says about a partition."""
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    return topic or "", -1 if partition is None else partition, -1 if offset is None else offset


def member_of(consumer: Consumer) -> tuple[int, str]:
    """(generation, member id) of a consumer in its group; generation -1 outside one, and in one that closes.

    Source: the group metadata as librdkafka writes it for transactions (`CGMDv2:`, int32, texts ended by NUL).
    """
    try:
        raw: bytes = consumer.consumer_group_metadata()
    except RuntimeError:  # an assignment that arrives during close(): callbacks still run, the membership is gone
        return -1, ""
    if not raw.startswith(b"CGMDv2:"):
        raise Undecodable("librdkafka's group metadata has another format than CGMDv2", raw)
    (generation,) = struct.unpack_from("=i", raw, 7)
    _group, member = raw[11:].split(b"\0")[:2]
    return generation, member.decode()


def load_security(path: str) -> dict[str, str]:
    """librdkafka options from a file of `key=value` lines; `#` starts a comment."""
    if not path:
        return {}
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as e:
        raise UsageError(f"HEADRACE_KAFKA_SECURITY: cannot read {path}: {e.strerror}") from None
    options = {}
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, eq, value = line.partition("=")
        if not eq:
            raise UsageError(f"{path}, line {number}: give key=value, such as security.protocol=SASL_SSL")
        options[key.strip()] = value.strip()
    return options
