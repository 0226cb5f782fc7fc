"""The storekeeper: a Faust agent that brings each outcome on `results` to its terminal event.

It is fed from a plain consumer over an in-memory channel, which holds no outcome but only the word that some have come:
the agent takes all that is in the inbox, so a lone outcome waits for nothing and many share one round of syncing,
sending and indexing. Offsets are committed only up to what the arbiter has done, and never past a result in chunks that
is not whole. Any error that is not waited for ends the role, which is started again.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import faust

from agents.faust_kit.channel import HandOverChannel
from agents.storekeeper.arbiter import Arbiter
from agents.storekeeper.batch_buffer import BatchBuffer, OutcomeBatch
from agents.storekeeper.consumer import OutcomeConsumer, Safe
from agents.storekeeper.index_catchup import IndexCatchup
from agents.storekeeper.retry_until import RetryUntilStopped, Stopped
from headrace.kafka.client import Kafka
from headrace.process.failpoints import Failpoint, no_failpoint
from headrace.process.health import STALE_S

__all__ = ["PartitionProgress", "Storekeeper"]

log = logging.getLogger(__name__)

_TEND_S = 1.0


@dataclass(slots=True)
class PartitionProgress:
    """What this process has done of the partitions it has been given in one generation of the group."""

    generation: int = -1
    ready: set[int] = field(default_factory=set)  # partitions whose outputs have been read into the index
    handled: dict[int, int] = field(default_factory=dict)  # partition -> offset after the last record handled
    # partition -> offset that may be committed; replaced, never changed
    safe: dict[int, int] = field(default_factory=dict)


class Storekeeper:
    """One per process. `attach` before the app starts, then `run` until `stop`, then `close`. All in the event loop."""

    def __init__(
        self,
        kafka: Kafka,
        arbiter: Arbiter,
        reader: IndexCatchup,
        patience: RetryUntilStopped,
        on_member: Callable[[str], None] = lambda _: None,
        failpoint: Failpoint = no_failpoint,
    ) -> None:
        """`on_member` is told this process's member id in its group; `at` of steps done (for fault tests)."""
        self._arbiter, self._reader, self._patience = arbiter, reader, patience
        self._inbox = BatchBuffer()
        self._progress = PartitionProgress()
        # Index, chunk sets and reader belong to one thread, so that the event loop never waits for disk or Kafka.
        self._thread = ThreadPoolExecutor(1, "arbiter")
        self._consumer = OutcomeConsumer(kafka, self._inbox, self._wake, self._safe, on_member, failpoint, self._failed)
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._channel: HandOverChannel | None = None

    def attach(self, app: faust.App) -> None:
        """Gives the app its agent."""
        self._channel = HandOverChannel(app)
        app.agent(self._channel, name="storekeeper")(self._work)

    async def run(self) -> None:
        """Handles what arrives; returns after `stop`. Raises what ends the role."""
        self._consumer.start()
        while not self._ended.done():
            await asyncio.wait({self._ended}, timeout=_TEND_S)
            if not self._inbox.busy_s():
                self._loop.run_in_executor(self._thread, self._arbiter.tend)
        self._ended.result()

    def stop(self) -> None:
        """The batch at work is finished, unless something is being waited for; nothing more is begun."""
        self._patience.stop()
        self._inbox.close()
        if not self._inbox.busy_s():
            self._end(None)

    async def close(self) -> None:
        """Commits what has been done and leaves the group."""
        await asyncio.to_thread(self._consumer.close)
        self._thread.shutdown()

    def partitions(self) -> list[tuple[str, int]]:
        """The partitions this process has now, as (topic, partition)."""
        return [("results", p) for p in self._consumer.partitions]

    def check(self) -> str | None:
        """For the role's health: the reason why it does not get on, in words."""
        busy_s = self._inbox.busy_s()
        return f"has been at one batch for {busy_s:.0f} s" if busy_s > STALE_S else self._consumer.check()

    def _wake(self) -> None:
        """There is something in the inbox; from the consumer's thread."""
        if self._channel is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._channel.queue.put_nowait, True)

    def _failed(self, error: Exception) -> None:
        """Nothing is read any more; from the consumer's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end, error)

    def ahead(self) -> dict[tuple[str, int], int]:
        """Offsets up to which partitions have been handled although a result in chunks holds their commit back.

        Whoever sent only the half of one would else have this role called stuck until the half is given up.
        """
        progress = self._progress
        done = progress.handled.copy().items()
        return {("results", p): offset for p, offset in done if offset > progress.safe.get(p, offset)}

    async def _work(self, stream: Any) -> None:
        async for _ in stream:
            batch = self._inbox.take()
            if batch is None:
                continue
            try:
                await self._loop.run_in_executor(self._thread, self._handle, batch)
            except Stopped:
                log.info("stopped while waiting: %s", self._patience.trouble)
                self._end(None)
            except BaseException as e:
                # Whatever the reason, be it that Faust has cancelled its agent: the batch is not done, and no later
                # one may be, or its offsets would be committed.
                self._end(e)
                raise
            finally:
                self._inbox.done()
            if self._patience.stopped:
                self._end(None)

    def _end(self, error: BaseException | None) -> None:
        """Nothing more is begun; `run` returns, or raises the error."""
        self._inbox.close()
        if self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        elif isinstance(error, Exception):
            self._ended.set_exception(error)
        else:
            self._ended.set_exception(RuntimeError("the storekeeper's agent was cancelled in the middle of a batch"))

    def _handle(self, batch: OutcomeBatch) -> None:
        self._enter(batch.generation)
        fresh = (batch.given | {r.partition for r in batch.records}) - self._progress.ready
        if fresh:
            count = self._patience.do("Kafka", lambda: self._reader.read(fresh))
            log.info("partitions %s: %d terminal events read into the index", sorted(fresh), count)
            self._progress.ready |= fresh
        self._arbiter.handle(batch.records)
        for record in batch.records:
            self._progress.handled[record.partition] = record.offset + 1
        # Taken here, between batches: while one is at work, a set that has just become whole holds nothing back, and
        # its event is not out yet.
        self._progress.safe = {p: self._offset(p, handled) for p, handled in self._progress.handled.items()}

    def _enter(self, generation: int) -> None:
        """A new generation begins at the committed offsets, with partitions that others may have had meanwhile."""
        if generation != self._progress.generation:
            self._progress = PartitionProgress(generation)
            self._arbiter.chunk_sets.clear()

    def _safe(self) -> Safe:
        progress = self._progress
        return progress.generation, progress.safe

    def _offset(self, partition: int, handled: int) -> int:
        hold = self._arbiter.chunk_sets.hold(partition)
        return handled if hold is None else min(handled, hold)
