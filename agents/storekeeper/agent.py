"""The storekeeper: a Faust agent that brings each outcome on `results` to its terminal event.

A plain consumer puts outcomes into a buffer and wakes the agent over an in-memory channel, which carries no outcomes.
The agent takes everything in the buffer at once: a lone outcome waits for nothing, and many share one round of syncing,
sending and indexing. Offsets are committed only for outcomes that the arbiter has handled, and never past the first
chunk of a result that is not whole. Partitions are taken over beside it (`takeovers.py`). An error that cannot be
retried ends the role, which is then started again.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import faust

from headrace.contract.records import Place
from headrace.event_loop import call_in_loop
from headrace.kafka.client import Kafka
from headrace.process.failpoints import Failpoint, no_failpoint
from headrace.process.health import STALE_S

from ..faust_kit.channel import HandOverChannel
from .arbiter import Arbiter
from .batch_buffer import BatchBuffer, OutcomeBatch
from .consumer import OutcomeConsumer, SafeOffsets
from .index_catchup import IndexCatchup
from .retry_until import RetryUntilStopped, Stopped
from .takeovers import Takeovers
from .terminal_index import IndexDamaged

log = logging.getLogger(__name__)

_SERVE_EVERY_S = 1.0


@dataclass(slots=True)
class PartitionProgress:
    """What this process has done in its partitions during one generation of the group."""

    generation: int = -1
    handled: dict[int, int] = field(default_factory=dict)  # partition -> offset after the last record handled
    # partition -> offset that may be committed; read by the consumer's thread, so it is replaced and never changed
    safe: dict[int, int] = field(default_factory=dict)


class Storekeeper:
    """One per process. `attach` before the app starts, then `run` until `stop`, then `close`. All in the event loop."""

    def __init__(
        self,
        kafka: Kafka,
        arbiter: Arbiter,
        catchup: IndexCatchup,
        retry: RetryUntilStopped,
        *,
        on_member: Callable[[str], None] = lambda _: None,
        failpoint: Failpoint = no_failpoint,
    ) -> None:
        """`on_member` is called with the member id in the group, `failpoint` at each commit (for fault tests)."""
        self._arbiter, self._retry = arbiter, retry
        self._buffer = BatchBuffer()
        self._progress = PartitionProgress()
        # Index and chunk sets belong to one thread, so that the event loop never waits for disk or Kafka.
        self._thread = ThreadPoolExecutor(1, "arbiter")
        catchup.use_thread(self._thread)
        self._takeovers = Takeovers(catchup, RetryUntilStopped(beside=retry), self._on_thread_failure)
        self._consumer = OutcomeConsumer(
            kafka,
            self._buffer,
            on_records=self._wake_agent,
            safe_offsets=self._safe_offsets,
            on_member=on_member,
            failpoint=failpoint,
            on_failure=self._on_thread_failure,
            on_generation=self._takeovers.begin,
            readable=self._takeovers.whole,
        )
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._channel: HandOverChannel | None = None

    def attach(self, app: faust.App) -> None:
        """Gives the app its agent."""
        self._channel = HandOverChannel(app)
        app.agent(self._channel, name="storekeeper")(self._handle_batches)

    async def run(self) -> None:
        """Handles outcomes as they arrive; returns after `stop`. Raises the error that ends the role."""
        self._takeovers.start()
        self._consumer.start()
        while not self._ended.done():
            await asyncio.wait({self._ended}, timeout=_SERVE_EVERY_S)
            if not self._buffer.busy_s():
                self._loop.run_in_executor(self._thread, self._serve_idle)
        self._ended.result()

    def _serve_idle(self) -> None:
        """What has to be done now and then, in the working thread."""
        try:
            self._arbiter.serve_idle()
        except IndexDamaged as e:
            call_in_loop(self._loop, self._end, e)

    def stop(self) -> None:
        """Begins no further batch. The current one is finished, unless it waits in a retry."""
        self._retry.stop()
        self._buffer.close()
        if not self._buffer.busy_s():
            self._end(None)

    async def close(self) -> None:
        """Commits what has been handled and leaves the group."""
        await asyncio.to_thread(self._consumer.close)
        await asyncio.to_thread(self._takeovers.close)
        self._thread.shutdown()

    def partitions(self) -> list[Place]:
        """The partitions that are assigned to this process."""
        return [("results", p) for p in self._consumer.partitions]

    def judged_partitions(self) -> list[Place]:
        """Those of them whose outcomes are read and judged by now."""
        return [("results", p) for p in self._takeovers.whole(self._consumer.generation)]

    def handled_past_commit(self) -> dict[Place, int]:
        """The handled offset of each partition whose commit is held back by a result in chunks.

        For the lag's check: a producer that never finishes a result must not make this role look stuck.
        """
        progress = self._progress
        handled = progress.handled.copy().items()
        return {("results", p): offset for p, offset in handled if offset > progress.safe.get(p, offset)}

    def check(self) -> str | None:
        """For the role's health: None, or the reason in words why it makes no progress."""
        busy_s = self._buffer.busy_s()
        if busy_s > STALE_S:
            return f"has been at one batch for {busy_s:.0f} s"
        return self._consumer.check() or self._takeovers.check()

    def _wake_agent(self) -> None:
        """Called in the consumer's thread when the buffer has something new."""
        if self._channel is not None:
            call_in_loop(self._loop, self._channel.hand_over, True)

    def _on_thread_failure(self, error: Exception) -> None:
        """Called in the thread of the consumer or of the takeovers, which has ended."""
        call_in_loop(self._loop, self._end, error)

    async def _handle_batches(self, stream: Any) -> None:
        async for _ in stream:
            batch = self._buffer.take_batch()
            if batch is None:
                continue
            try:
                await self._loop.run_in_executor(self._thread, self._handle_batch, batch)
            except Stopped:
                log.info("stopped during a retry: %s", self._retry.trouble)
                self._end(None)
            except BaseException as e:
                # Also when Faust has cancelled its agent. The batch is not done, so no later batch may be handled:
                # its offsets would be committed.
                self._end(e)
                raise
            finally:
                self._buffer.finish_batch()
            if self._retry.stopped:
                self._end(None)

    def _end(self, error: BaseException | None) -> None:
        """Begins no further batch; `run` returns, or raises the error."""
        self._buffer.close()
        if self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        elif isinstance(error, Exception):
            self._ended.set_exception(error)
        else:
            self._ended.set_exception(RuntimeError("the storekeeper's agent was cancelled in the middle of a batch"))

    def _handle_batch(self, batch: OutcomeBatch) -> None:
        self._enter_generation(batch.generation)
        self._arbiter.handle_batch(batch.records)
        for record in batch.records:
            self._progress.handled[record.partition] = record.offset + 1
        for partition, end in batch.ends.items():
            self._progress.handled[partition] = max(end, self._progress.handled.get(partition, 0))
        # Only between batches: during one, a chunk set that has just become whole no longer holds the commit back, and
        # its event is not sent yet.
        self._progress.safe = {p: self._safe_offset(p, handled) for p, handled in self._progress.handled.items()}

    def _enter_generation(self, generation: int) -> None:
        """A new generation begins at the committed offsets; others may have had its partitions meanwhile."""
        if generation != self._progress.generation:
            self._progress = PartitionProgress(generation)
            self._arbiter.chunk_sets.drop_all()

    def _safe_offsets(self) -> SafeOffsets:
        progress = self._progress
        return progress.generation, progress.safe

    def _safe_offset(self, partition: int, handled: int) -> int:
        limit = self._arbiter.chunk_sets.commit_limit(partition)
        return handled if limit is None else min(handled, limit)
