"""The storekeeper: a Faust agent on `results` that brings each outcome to its terminal event.

The agent gathers what arrives while the arbiter is at work, so a lone outcome waits for nothing and many share one
round of syncing, sending and indexing. Offsets are committed only up to what the arbiter has done, and never past a
result in chunks that is not whole. Any error that is not waited for ends the role, which is started again.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import faust
from faust.types import TP

from agents.arbiter import Arbiter
from agents.inbox import Delivered, Inbox
from agents.patience import Patience, Stopped
from agents.terminal_reader import TerminalReader
from headrace.health import Heart
from headrace.kafka import Kafka
from headrace.records import Record

log = logging.getLogger(__name__)

GROUP = "headrace-storekeeper"
_COMMIT_EVERY_S = 0.2  # what is not committed is read again after a crash and passed over: cheap, but not for nothing


@dataclass(slots=True)
class Progress:
    """What this process has done of the partitions it has been given in one generation of the group."""

    generation: int = -1
    ready: set[int] = field(default_factory=set)  # partitions whose outputs have been read into the index
    handled: dict[int, int] = field(default_factory=dict)  # partition -> offset after the last record handled
    safe: dict[int, int] = field(
        default_factory=dict
    )  # partition -> offset that may be committed; replaced, never changed
    committed: dict[int, int] = field(default_factory=dict)


class Storekeeper:
    """One per process. `attach` before the app starts, then `run` until `stop`."""

    def __init__(self, kafka: Kafka, arbiter: Arbiter, reader: TerminalReader, patience: Patience,
                 at: Callable[[str], None] = lambda _: None) -> None:  # fmt: skip
        self._topic = kafka.topic("results")
        self._arbiter, self._reader, self._patience, self._at = arbiter, reader, patience, at
        self._inbox = Inbox()
        self._progress = Progress()
        # Index, chunk sets and reader belong to one thread, so that the event loop never waits for disk or Kafka.
        self._thread = ThreadPoolExecutor(1, "arbiter")
        self._app: faust.App | None = None
        self._commit: asyncio.Task[None] | None = None
        self.heart = Heart("the storekeeper")

    def attach(self, app: faust.App) -> None:
        """Gives the app its agent."""
        self._app = app
        topic = app.topic(self._topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
        app.agent(topic, name="storekeeper")(self._work)
        app.on_partitions_assigned.connect(self._on_assigned)  # type: ignore[arg-type]  # any keyword is fine

    async def run(self) -> None:
        """Handles what arrives; returns after `stop`. Raises what ends the role."""
        loop = asyncio.get_running_loop()
        try:
            while not self._patience.stopped:
                self.heart.beat()
                batch = await self._inbox.take(timeout_s=1.0)
                await loop.run_in_executor(self._thread, self._handle, batch)
                self._commit_soon()
        except Stopped:
            log.info("stopped while waiting: %s", self._patience.trouble)
        finally:
            self._inbox.close()

    def stop(self) -> None:
        """The batch at work is finished, unless something is being waited for; nothing more is begun."""
        self._patience.stop()
        self._inbox.wake()

    async def finish(self) -> None:
        """Commits what has been done; call after `run` and before the app stops."""
        if self._commit is not None:
            await self._commit
        await self._commit_now()
        self._thread.shutdown()

    def partitions(self) -> list[tuple[str, int]]:
        """The partitions this process has now, as (topic, partition)."""
        consumer = self._app.consumer if self._app is not None and self._app.started else None
        return [("results", tp.partition) for tp in consumer.assignment()] if consumer is not None else []

    def held_back(self) -> object:
        """What has been handled beyond offsets that a result in chunks holds: it moves although they stand still."""
        progress = self._progress
        done = progress.handled.copy().items()
        return tuple((p, offset) for p, offset in done if offset > progress.safe.get(p, offset))

    async def _work(self, stream: Any) -> None:
        # Not `take`: it acknowledges what it has buffered when the agent is cancelled, done or not.
        async for event in stream.noack().events():
            message = event.message
            await self._inbox.put(Delivered(_record(message), message.generation_id or 0))

    async def _on_assigned(self, _app: Any, assigned: Iterable[TP], **_: Any) -> None:
        """Has the index brought up to date now, rather than when the first outcome waits for it."""
        assert self._app is not None
        self._inbox.assigned(
            self._app.consumer_generation_id, [tp.partition for tp in assigned if tp.topic == self._topic]
        )

    def _handle(self, batch: list[Delivered]) -> None:
        for generation, part in _by_generation(batch):
            self._enter(generation)
            fresh = {d.partition for d in part} - self._progress.ready
            if fresh:
                count = self._patience.do("Kafka", lambda fresh=fresh: self._reader.read(fresh))  # type: ignore[misc]
                log.info("partitions %s: %d terminal events read into the index", sorted(fresh), count)
                self._progress.ready |= fresh
            records = [d.record for d in part if d.record is not None]
            self._arbiter.handle(records)
            for record in records:
                self._progress.handled[record.partition] = record.offset + 1
        # Taken here, between batches: while one is at work, a set that has just become whole holds nothing back, and
        # its event is not out yet.
        self._progress.safe = {p: self._safe(p, handled) for p, handled in self._progress.handled.items()}

    def _enter(self, generation: int) -> None:
        """A new generation begins at the committed offsets, with partitions that others may have had meanwhile."""
        if generation != self._progress.generation:
            self._progress = Progress(generation)
            self._arbiter.chunk_sets.clear()

    def _commit_soon(self) -> None:
        if self._commit is None or self._commit.done():
            self._commit = asyncio.create_task(self._commit_later())

    async def _commit_later(self) -> None:
        await self._commit_now()
        await asyncio.sleep(_COMMIT_EVERY_S)

    async def _commit_now(self) -> None:
        progress = self._progress
        moved = {p: offset for p, offset in progress.safe.items() if progress.committed.get(p) != offset}
        if not moved or self._app is None:
            return
        self._at("commit")
        if await commit(self._app, {TP(self._topic, p): offset for p, offset in moved.items()}):
            progress.committed.update(moved)

    def _safe(self, partition: int, handled: int) -> int:
        hold = self._arbiter.chunk_sets.hold(partition)
        return handled if hold is None else min(handled, hold)


async def commit(app: faust.App, offsets: Mapping[TP, int]) -> bool:
    """Commits these offsets through the app's own consumer; False when the group has moved on.

    Faust's acknowledgements cannot say "not past this one yet" without keeping every later message, so they are not
    used here; its consumer's own commit is.
    """
    done: bool = await app.consumer._commit(offsets)  # type: ignore[attr-defined]
    return done


def _by_generation(batch: list[Delivered]) -> Iterable[tuple[int, list[Delivered]]]:
    """Runs of one generation, in order."""
    run: list[Delivered] = []
    for delivered in batch:
        if run and delivered.generation != run[0].generation:
            yield run[0].generation, run
            run = []
        run.append(delivered)
    if run:
        yield run[0].generation, run


def _record(message: Any) -> Record:
    headers = message.headers or ()
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    own = tuple((k, v if v is not None else b"") for k, v in pairs)
    at_ms = round(message.timestamp * 1000)
    return Record("results", message.partition, message.offset, at_ms, message.key, message.value, own)
