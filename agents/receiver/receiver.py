"""The receiver agent: announces on `lifecycle.received` each task that comes into the platform, whoever produced it.

A Faust agent on both task topics, in a group of its own. It announces first attempts only, also those that cannot be
decoded (the intake ends them at once), and leaves out repeats. It acknowledges offsets in order, each after Kafka has
the lifecycle record. After a crash the same records come again, and `ReceivedIndex` recognises those already announced.
"""

import asyncio
import contextlib
import time
from typing import Any

import faust
from confluent_kafka import KafkaException

from headrace.contract.lifecycle import received_event
from headrace.contract.records import Outgoing, Record
from headrace.contract.task import Task
from headrace.errors import Permanent, Retryable, Undecodable
from headrace.kafka.client import Kafka
from headrace.kafka.sender import Sender, Sent
from headrace.process.health import STALE_S
from headrace.process.throttled_log import log_throttled

from ..intake.consumer import TOPICS
from ..monitoring.protocol_metrics import ProtocolMetrics
from .received_index import ReceivedIndex

_MAX_IN_FLIGHT = 5000  # records handled and not yet acknowledged
_RETRY_S = 1.0

_InFlight = asyncio.Queue[tuple[Any, Outgoing | None, Sent | None]]  # event, what was sent for it, the answer to it


class Receiver:
    """Call `attach` once, before the app starts."""

    def __init__(self, kafka: Kafka, sender: Sender, metrics: ProtocolMetrics | None = None) -> None:
        self._kafka, self._sender, self._metrics = kafka, sender, metrics or ProtocolMetrics()
        self._index = ReceivedIndex(kafka)
        self._generation: int | None = None
        self._waiting_since: float | None = None

    def attach(self, app: faust.App) -> None:
        names = [self._kafka.topic(t) for t in TOPICS]
        topic = app.topic(*names, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
        app.agent(topic, name="receiver")(self._receive)

    def check(self) -> str | None:
        """For the node's health: why it makes no progress, or None."""
        since = self._waiting_since
        if since is not None and time.monotonic() - since > STALE_S:
            return f"Kafka has not taken a lifecycle record for {time.monotonic() - since:.0f} s"
        return None

    def close(self) -> None:
        self._index.close()

    async def _receive(self, stream: Any) -> None:
        in_flight: _InFlight = asyncio.Queue(_MAX_IN_FLIGHT)
        acknowledging = asyncio.create_task(self._acknowledge(in_flight))
        try:
            async for event in stream.noack().events():
                if event.message.generation_id != self._generation:
                    await self._catch_up()
                    self._generation = event.message.generation_id
                outgoing = self._announcement(record_of_message(event.message, self._kafka.prefix))
                await in_flight.put((event, outgoing, self._sender.send(outgoing) if outgoing else None))
                if acknowledging.done():
                    acknowledging.result()  # raises the error that has ended it
        finally:
            acknowledging.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await acknowledging

    def _announcement(self, record: Record) -> Outgoing | None:
        """The event for a record of a task topic; None for replays and repeats."""
        task = _decode_task(record)
        if task.attempt > 1:
            return None
        if not self._index.add_new_id(task.id):
            self._metrics.received_repeats.inc()
            return None
        name = directory = ""
        with contextlib.suppress(Permanent):  # an invalid submission is announced too
            submission = task.submission()
            name, directory = submission.name, submission.directory
        self._metrics.received_tasks.inc()
        return received_event(task, name, directory, _via(record))

    async def _catch_up(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._index.catch_up)
                return
            except (KafkaException, Retryable) as e:
                self._waiting_since = self._waiting_since or time.monotonic()
                log_throttled("receiver", "The receiver waits until it can read lifecycle.received: %s", e)
                await asyncio.sleep(_RETRY_S)

    async def _acknowledge(self, in_flight: _InFlight) -> None:
        while True:
            event, outgoing, sent = await in_flight.get()
            while outgoing is not None and sent is not None:
                if not sent.done():
                    self._waiting_since = self._waiting_since or time.monotonic()
                try:
                    await asyncio.wrap_future(sent)
                    break
                except Retryable as e:
                    log_throttled("receiver", "lifecycle.received: %s", e)
                    await asyncio.sleep(e.delay_s)
                    sent = self._sender.send(outgoing)
            self._waiting_since = None
            event.ack()


def record_of_message(message: Any, prefix: str) -> Record:
    """The record in a message that Faust has consumed; `prefix` is the installation's, of its topics."""
    headers = message.headers or ()
    pairs = headers.items() if isinstance(headers, dict) else headers
    return Record(
        topic=message.topic.removeprefix(prefix),
        partition=message.partition,
        offset=message.offset,
        timestamp_ms=round(message.timestamp * 1000),
        key=message.key,
        value=message.value,
        headers=tuple((k, v if v is not None else b"") for k, v in pairs),
    )


def _decode_task(record: Record) -> Task:
    try:
        return Task.from_record(record)
    except Undecodable:  # forged headers: the intake ends such a task at once, but it has come
        return Task.without_headers(record)


def _via(record: Record) -> str:
    try:
        return "http" if record.text("via", "kafka") == "http" else "kafka"
    except Undecodable:
        return "kafka"
