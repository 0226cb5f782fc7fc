"""Makes Kafka clients: the one place that knows addresses, security, the prefix and the clients' options.

Every role makes its consumers, producers and admin clients here. Network errors are not raised: librdkafka reconnects
by itself, and its messages are logged once a minute at most. UsageError for settings that cannot be used.
"""

import logging
import operator
import struct
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka.admin import AdminClient

from headrace.contract.bounds import MAX_MESSAGE_BYTES
from headrace.contract.records import UNREADABLE_NAME, Record
from headrace.errors import Undecodable, UsageError
from headrace.kafka.damaged_batches import DamagedBatches
from headrace.kafka.groups import NO_GROUP
from headrace.kafka.log_consumer import LogConsumer, fetch_raw
from headrace.process.throttled_log import log_throttled
from headrace.settings import Settings

# How soon producers and members of a group hear of new partitions (docs/design/0038). Each asks that often for its own
# topics: a tenth of the requests that a member's heartbeats are.
HEARS_OF_GROWTH_MS = 5_000

# For a consumer that is assigned again and again: a fetch that finds nothing delays the next assignment by this time.
SHORT_FETCH = {"fetch.wait.max.ms": 10}
# For readers for whom nobody waits: the broker answers with many records at once, or after the time. Each fetch costs
# it some half a millisecond, whatever it brings.
UNHURRIED_FETCH = {"fetch.min.bytes": 1024 * 1024, "fetch.wait.max.ms": 200}


def _on_error(error: KafkaError) -> None:
    log_throttled(error.name(), "Kafka: %s", error.str())


_RENEW_S, _LONGEST_RENEW_S = 5.0, 300.0  # each renewal makes the next one wait longer
_KEPT_ADMINS = 3  # requests that wait for the answer to one of the last clients: longer than these 10 s none waits


class _ThrottledLogger(logging.Logger):
    """Passes librdkafka's own log lines to `log_throttled`."""

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
        self.damaged_batches = DamagedBatches()  # that consumers made here have passed over
        self._lock = threading.Lock()
        self._admins: list[tuple[float, AdminClient]] = []  # the newest last, with the times when they were made
        self._group_readers: dict[str, Consumer] = {}
        self._renew_s = _RENEW_S
        self._base: dict[str, Any] = {
            "bootstrap.servers": settings.kafka,
            "client.id": client_id,
            "error_cb": _on_error,
            "logger": _ThrottledLogger("librdkafka"),
            "socket.nagle.disable": True,
            "reconnect.backoff.max.ms": 1000,  # back within a second of the broker
            **self.security,
        }
        if self.security:
            _check_options(self._base, settings.kafka_security)

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
                "message.max.bytes": MAX_MESSAGE_BYTES,
                "linger.ms": 0,
                "queue.buffering.max.kbytes": 131_072,
                "topic.metadata.refresh.interval.ms": HEARS_OF_GROWTH_MS,
            }
            | options
        )

    def consumer(self, group: str | None = None, **options: Any) -> Consumer:
        """A consumer of committed records that never commits by itself, and that no batch stops.

        Without a group its offsets are the caller's own business.
        """
        return LogConsumer(
            self._base
            | {
                "group.id": self.group(group or NO_GROUP),
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "error",  # never silently start over
                "enable.partition.eof": group is None,
                "fetch.error.backoff.ms": 100,
                "queued.max.messages.kbytes": 16_384,  # memory does not grow with the queue's length
                "topic.metadata.refresh.interval.ms": HEARS_OF_GROWTH_MS if group else 60_000,
            }
            | options,
            unprefixed=self.unprefixed,
            damaged=self.damaged_batches,
            fetch=partial(fetch_raw, self),
        )

    def admin(self) -> AdminClient:
        """The process's admin client, which all threads share: a client has a handful of threads and connections.

        Ask for it at each use, because `renew_admin` replaces it.
        """
        with self._lock:
            if not self._admins:
                self._admins.append((time.monotonic(), AdminClient(self._base)))
            return self._admins[-1][1]

    def renew_admin(self) -> None:
        """Replaces the admin client after a failed request, unless it is new or Kafka is away. Asks for up to a second.

        After a broker's restart librdkafka 2.16.1 may go on with the leaders that it knew before. Not in an outage:
        confluent-kafka never frees a client whose request has failed, with its four threads.
        """
        made_at, admin = self._admins[-1] if self._admins else (time.monotonic(), None)
        if admin is None or time.monotonic() - made_at <= self._renew_s:
            return
        try:
            admin.list_topics(timeout=1.0)
        except KafkaException:
            return
        with self._lock:
            if self._admins[-1][1] is admin:
                self._renew_s = min(_LONGEST_RENEW_S, 2 * self._renew_s)
                self._admins.append((time.monotonic(), AdminClient(self._base)))
                del self._admins[:-_KEPT_ADMINS]

    def group_reader(self, group: str) -> Consumer:
        """A consumer that asks for the group's committed offsets and never joins it; all threads share it.

        Some thread must call `drop_errors` every few seconds.
        """
        with self._lock:
            if group not in self._group_readers:
                self._group_readers[group] = self.consumer(group)
            return self._group_readers[group]

    def drop_errors(self) -> None:
        """Takes what librdkafka keeps for clients that nobody polls: in an outage 15 KB a second for each group reader
        and 2 KB for an admin client (measured)."""
        for reader in list(self._group_readers.values()):
            reader.poll(0)
        for _, admin in list(self._admins):
            admin.poll(0)

    def record(self, message: Message) -> Record:
        return record_of(message, self.prefix)


# For a header name that is no UTF-8 the client returns a pair with a NULL in it and leaves the exception pending; using
# the pair crashes the process. `methodcaller` checks for pending exceptions, the interpreter's method call does not.
_headers = operator.methodcaller("headers")


def record_of(message: Message, prefix: str = "") -> Record:
    """The message as a Record; `prefix` is removed from its topic."""
    key, value = message.key(), message.value()
    topic, partition, offset = place_of_message(message)
    pairs: Any
    try:
        pairs = _headers(message) or ()  # a list of pairs, although the client's types say dict
        headers = tuple((k, v if v is not None else b"") for k, v in pairs)
    except (SystemError, UnicodeDecodeError):  # then the client returns none of the headers
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
    """(topic with its prefix, partition, offset) of a message or of a partition's event."""
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    return topic or "", -1 if partition is None else partition, -1 if offset is None else offset


def member_of(consumer: Consumer) -> tuple[int, str]:
    """(generation, member id) of a consumer in its group; generation -1 outside a group and while it closes.

    Undecodable for another librdkafka. Source: the group metadata as librdkafka serializes it for transactions
    (`CGMDv2:`, int32, NUL-terminated texts; rdkafka_cgrp.c).
    """
    try:
        raw: bytes = consumer.consumer_group_metadata()
    except RuntimeError:  # in a callback during close(): the membership is gone
        return -1, ""
    if not raw.startswith(b"CGMDv2:"):
        raise Undecodable("librdkafka's group metadata has another format than CGMDv2", raw)
    (generation,) = struct.unpack_from("=i", raw, 7)
    _group, member = raw[11:].split(b"\0")[:2]
    return (generation, member.decode()) if member else (-1, "")  # it has left, and keeps the generation's number


def _check_options(options: dict[str, Any], path: str) -> None:
    """UsageError when librdkafka does not take the options: an unknown name, a wrong value, a missing certificate."""
    try:
        AdminClient(options)
    except KafkaException as e:
        raise UsageError(f"HEADRACE_KAFKA_SECURITY: {path}: {e.args[0].str()}") from None


def load_security(path: str) -> dict[str, str]:
    """librdkafka options from a file of `key=value` lines; `#` starts a comment. UsageError for any other line."""
    if not path:
        return {}
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as e:
        raise UsageError(f"HEADRACE_KAFKA_SECURITY: cannot read {path}: {e.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"HEADRACE_KAFKA_SECURITY: {path} is no text file: give lines of key=value") from None
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
