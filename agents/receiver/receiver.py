"""The receiver agent: tells on `lifecycle.received` of every task that comes into the platform, whoever produced it.

A Faust agent on both task topics, in a group of its own. It tells of first attempts alone, also of those that cannot be
read (they are dead at once, by the intake), and leaves out repeats. An offset is acknowledged, in order, only after
Kafka has the lifecycle record, so a crash may tell twice at most, and then `ReceivedIndex` sees it.
"""

import asyncio
import contextlib
import time
from typing import Any

import faust
from confluent_kafka import KafkaException

from agents.receiver.received_index import ReceivedIndex
from headrace.contract.lifecycle import received
from headrace.contract.records import Outgoing, Record
from headrace.contract.task import Task
from headrace.errors import Permanent, Retryable, Undecodable
from headrace.kafka.client import Kafka, Sender, Sent, log_throttled
from headrace.process.health import STALE_S

TOPICS = ("tasks.normal", "tasks.high")
_IN_FLIGHT = 5000  # told and not yet acknowledged
_AGAIN_S = 1.0


class Receiver:
    """Call `attach` once, before the app starts."""

    def __init__(self, kafka: Kafka, sender: Sender) -> None:
        self._kafka, self._sender = kafka, sender
        self._index = ReceivedIndex(kafka)
        self._generation: int | None = None
        self._waiting_since: float | None = None
        self.told = 0
        self.repeats = 0

    def attach(self, app: faust.App) -> None:
        names = [self._kafka.topic(t) for t in TOPICS]
        topic = app.topic(*names, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
        app.agent(topic, name="receiver")(self._receive)

    def check(self) -> str | None:
        """For the node's health: the reason why it does not get on, in words."""
        since = self._waiting_since
        if since is not None and time.monotonic() - since > STALE_S:
            return f"Kafka has not taken a lifecycle record for {time.monotonic() - since:.0f} s"
        return None

    def close(self) -> None:
        self._index.close()

    async def _receive(self, stream: Any) -> None:
        told: asyncio.Queue[tuple[Any, Outgoing | None, Sent | None]] = asyncio.Queue(_IN_FLIGHT)
        acknowledging = asyncio.create_task(self._acknowledge(told))
        try:
            async for event in stream.noack().events():
                if event.message.generation_id != self._generation:
                    await self._catch_up()
                    self._generation = event.message.generation_id
                outgoing = self.tells(record_of(event.message, self._kafka.prefix))
                await told.put((event, outgoing, self._sender.send(outgoing) if outgoing else None))
                if acknowledging.done():
                    acknowledging.result()  # raises what ended it
        finally:
            acknowledging.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await acknowledging

    def tells(self, record: Record) -> Outgoing | None:
        """What is to be told of a record of a task topic; None for replays and repeats."""
        task = _task(record)
        if task.attempt > 1:
            return None
        if not self._index.add(task.id):
            self.repeats += 1
            return None
        name = directory = ""
        with contextlib.suppress(Permanent):  # unreadable: told all the same
            submission = task.submission()
            name, directory = submission.name, submission.directory
        self.told += 1
        return received(task, name, directory, _via(record))

    async def _catch_up(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._index.catch_up)
                return
            except (KafkaException, TimeoutError) as e:
                self._waiting_since = self._waiting_since or time.monotonic()
                log_throttled("receiver", "The receiver waits until it can read lifecycle.received: %s", e)
                await asyncio.sleep(_AGAIN_S)

    async def _acknowledge(self, told: "asyncio.Queue[tuple[Any, Outgoing | None, Sent | None]]") -> None:
        while True:
            event, outgoing, sent = await told.get()
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


def record_of(message: Any, prefix: str) -> Record:
    """What a message that Faust has consumed is to our messages."""
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


def _task(record: Record) -> Task:
    try:
        return Task.from_record(record)
    except Undecodable:  # forged headers: a task that is dead at once, but it has come
        return Task.bare(record)


def _via(record: Record) -> str:
    try:
        return "http" if record.text("via", "kafka") == "http" else "kafka"
    except Undecodable:
        return "kafka"
