"""The receiver agent: announces on `lifecycle.received` each task that comes into the platform, whoever produced it.

A Faust agent on an in-memory channel, fed by `ReceiverConsumer`, which reads both task topics in a group of its own. It
announces first attempts only, also those that cannot be decoded (the intake ends them at once), and leaves out repeats.
It settles offsets in order, each after Kafka has the lifecycle record. After a crash the same records come again, and
`ReceivedIndex` recognises those already announced.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import faust
from confluent_kafka import KafkaException

from headrace.contract.lifecycle import received_event
from headrace.contract.records import Outgoing, Place, Record
from headrace.contract.task import Task
from headrace.errors import Permanent, Retryable, Undecodable
from headrace.event_loop import call_in_loop
from headrace.kafka.client import Kafka
from headrace.kafka.sender import Sender, Sent
from headrace.process.health import STALE_S
from headrace.process.taking_over import TakingOver
from headrace.process.throttled_log import log_throttled

from ..faust_kit.channel import HandOverChannel
from ..monitoring.protocol_metrics import ProtocolMetrics
from .consumer import MOST_UNSETTLED, ReceiverConsumer, Step, StepBatch
from .received_index import ReceivedIndex

_RETRY_S = 1.0

_InFlight = asyncio.Queue[tuple[int, Step, Outgoing | None, Sent | None]]  # generation, what was sent, the answer to it


class Receiver:
    """Call `attach` once, in the event loop, before the app starts; then `start`, and `close` at the end."""

    def __init__(
        self,
        kafka: Kafka,
        sender: Sender,
        metrics: ProtocolMetrics | None = None,
        on_member: Callable[[str, str], None] = lambda _, __: None,
    ) -> None:
        """`on_member` is called with the group and the member id of each new membership, in a thread."""
        self._kafka, self._sender, self._metrics = kafka, sender, metrics or ProtocolMetrics()
        self._index = ReceivedIndex(kafka)
        self._taking_over = TakingOver(self._index.reading.check)
        self._consumer = ReceiverConsumer(kafka, self._hand_over, on_member, self._taking_over)
        self._indexed: int | None = None  # the generation for which the index has caught up
        self._waiting_since: float | None = None
        self._unread_since: float | None = None  # since when the index cannot be read
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: HandOverChannel | None = None

    def attach(self, app: faust.App) -> None:
        """Gives the app its agent."""
        self._loop = asyncio.get_running_loop()
        self._channel = HandOverChannel(app)
        app.agent(self._channel, name="receiver")(self._receive)

    def start(self) -> None:
        """Joins the group."""
        self._consumer.start()

    @property
    def failure(self) -> Exception | None:
        """What has ended its consumer: lost offsets, for example."""
        return self._consumer.failure

    def set_on_failure(self, on_failure: Callable[[Exception], None]) -> None:
        """`on_failure` is called in the consumer's thread with the error that has ended it; set it before `start`."""
        self._consumer.on_failure = on_failure

    @property
    def places(self) -> tuple[Place, ...]:
        """The partitions that this node owns."""
        return self._consumer.places

    def check(self) -> str | None:
        """For the node's health: why it makes no progress, or None."""
        since = self._waiting_since
        if since is not None and time.monotonic() - since > STALE_S:
            return f"Kafka has not taken a lifecycle record for {time.monotonic() - since:.0f} s"
        unread = self._unread_since
        if unread is not None and time.monotonic() - unread > STALE_S:
            return f"lifecycle.received cannot be read for {time.monotonic() - unread:.0f} s"
        return self._consumer.check()

    def close(self) -> None:
        """Commits what is announced and leaves the group."""
        self._consumer.close()
        self._index.close()

    def _hand_over(self, batch: StepBatch) -> None:
        """Called in the consumer's thread."""
        if self._channel is not None:
            call_in_loop(self._loop, self._channel.hand_over, batch)

    async def _receive(self, stream: Any) -> None:
        in_flight: _InFlight = asyncio.Queue(MOST_UNSETTLED)
        acknowledging = asyncio.create_task(self._acknowledge(in_flight))
        try:
            async for batch in stream:
                await self._announce(batch, in_flight)
                if acknowledging.done():
                    acknowledging.result()  # raises the error that has ended it
        except BaseException:
            # What is in flight will not be settled, so nothing behind it may be: its offset would be committed.
            self._consumer.read_again()
            raise
        finally:
            acknowledging.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await acknowledging

    async def _announce(self, batch: StepBatch, in_flight: _InFlight) -> None:
        if batch.generation != self._indexed and self._consumer.is_current(batch.generation):
            await self._catch_up()
            self._indexed = batch.generation
            self._taking_over.end(batch.generation)
        for step in batch.steps:
            if not self._consumer.is_current(batch.generation):
                return  # the partition's owner reads it again
            outgoing = self._announcement(step.record) if step.record is not None else None
            await in_flight.put((batch.generation, step, outgoing, self._sender.send(outgoing) if outgoing else None))

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
                self._unread_since = None
                return
            except (KafkaException, Retryable) as e:
                self._unread_since = self._unread_since or time.monotonic()
                log_throttled("receiver", "The receiver waits until it can read lifecycle.received: %s", e)
                await asyncio.sleep(_RETRY_S)

    async def _acknowledge(self, in_flight: _InFlight) -> None:
        while True:
            generation, step, outgoing, sent = await in_flight.get()
            while outgoing is not None and sent is not None:
                try:
                    if not sent.done():
                        self._waiting_since = self._waiting_since or time.monotonic()
                        await asyncio.wrap_future(sent)
                    sent.result()
                    break
                except Retryable as e:
                    log_throttled("receiver", "lifecycle.received: %s", e)
                    await asyncio.sleep(e.delay_s)
                    sent = self._sender.send(outgoing)
            self._waiting_since = None
            self._consumer.settle(generation, step)


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
