"""A worker node at work: the order in which its parts start, how it drains, and the order in which they end.

Called by `agents.worker.main`, which holds the node's lock and has the pool's children starting. The worker agent and
the intake start before Faust's slower parts, so the first tasks run while the rest joins its groups. UsageError when a
consumer group has lost its offsets; any other error of a part ends the node with it.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from typing import Any

import faust

from headrace.contract.cluster import KindInfo
from headrace.errors import UsageError
from headrace.event_loop import call_in_loop
from headrace.kafka.client import Kafka
from headrace.kafka.groups import RECEIVER_GROUP
from headrace.kafka.lag import LagWatch
from headrace.kafka.sender import Sender
from headrace.process.failpoints import Failpoint, no_failpoint
from headrace.settings import Settings, parse_address

from ..execution.pool import Pool
from ..execution.progress import ProgressRelay
from ..faust_kit.app import make_app, quiet_logs, running, until_stopped
from ..faust_kit.health_routes import add_health_routes
from ..membership.death_notices import drain_notice, own_death_notice
from ..membership.fencing import Fence
from ..membership.identity import NodeIdentity, Predecessor
from ..membership.takeover import take_over
from ..monitoring.stats_page import add_stats_page
from .parts import TOPICS, NodeResources, WorkerParts
from .preflight import check_offsets, wait_for_topics
from .status import node_health, node_view

log = logging.getLogger(__name__)

_SAMPLE_S = 1.0  # between two samples of slots and backlog: five make a bucket of the stats page's history
_LAST_RECORDS_S = 15.0  # for retries that wait and the last tombstones, at the end of a drain
_DEATH_NOTICE_S = 10.0  # for Kafka to acknowledge that a boot is over


def run(
    settings: Settings,
    kafka: Kafka,
    node: NodeIdentity,
    predecessor: Predecessor | None,
    pool: Pool,
    kinds: Future[list[KindInfo]],
    failpoint: Failpoint = no_failpoint,
) -> int:
    """Runs the node until SIGTERM or SIGINT and returns its exit code.

    `kinds` is what the pool's children have loaded; it may fail with UsageError. `predecessor`: the boot that held the
    node's name before, whose work is taken over first.
    """
    quiet_logs()
    wait_for_topics(kafka, TOPICS, lambda: kinds.result() if kinds.done() else None)
    receiver_lag = LagWatch(kafka, RECEIVER_GROUP, lambda: ())
    check_offsets(receiver_lag, kafka.group(RECEIVER_GROUP))
    receiver_lag.close()
    sender = Sender(kafka)
    try:
        if predecessor is not None:
            take_over(kafka, sender, node, predecessor)
        resources = NodeResources(settings, kafka, sender, node, pool, kinds.result(), failpoint)
        return asyncio.run(WorkerNode(resources).serve())
    finally:
        sender.close()


class WorkerNode:
    """One node in its event loop. `serve` may be called once."""

    def __init__(self, resources: NodeResources) -> None:
        self._resources, self._parts = resources, WorkerParts(resources)
        self._settings, self._kafka, self._node = resources.settings, resources.kafka, resources.node
        self._pool = resources.pool
        self._fence = Fence(self._node, self._settings.lease_s, [self._end_boot, self._send_death_notice])
        self._parts.registry.on_declared_dead = self._fence.declared_dead
        self._receiver_lag = LagWatch(self._kafka, RECEIVER_GROUP, lambda: self._parts.receiver.places)
        self._is_draining = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self) -> int:
        """Runs until a signal, or until a part fails; returns 0 or raises what the part failed with."""
        self._loop = asyncio.get_running_loop()
        stop, hurry = _signals(self._loop)
        parts = self._parts
        parts.intake.on_failure = lambda _: self._in_loop(stop.set)
        parts.reaper.on_failure = lambda _: self._in_loop(stop.set)
        parts.receiver.set_on_failure(lambda _: self._in_loop(stop.set))
        parts.cancellations.on_cancel = lambda task_id: self._in_loop(self._pool.cancel, task_id)
        app = self._make_app()
        async with self._started(app):
            await until_stopped(app, stop)
            if not app.should_stop:
                await self._drain(hurry)
        if parts.intake.failure is not None:
            raise UsageError(parts.intake.failure)
        if (failure := parts.reaper.failure or parts.receiver.failure) is not None:
            raise failure  # the process exits with an error, and its supervisor starts it again
        return 0

    def _make_app(self) -> faust.App:
        folder = self._settings.data / f"worker-{parse_address(self._settings.stats_http)[1]}"
        app = make_app(RECEIVER_GROUP, self._settings, self._kafka, self._settings.stats_http, folder)
        parts = self._parts
        parts.worker.attach(app)
        parts.receiver.attach(app)
        health = node_health(parts, self._resources, self._fence, self._receiver_lag)
        add_stats_page(app, node_view(parts, self._resources, health, lambda: self._is_draining))
        add_health_routes(app, health, parts.stats.registry, lambda: parts.stats.ready.set(not health.reasons()))
        return app

    @contextlib.asynccontextmanager
    async def _started(self, app: faust.App) -> AsyncIterator[None]:
        """Starts every part; at the end closes them all, those that others depend on last."""
        parts = self._parts
        self._pool.on_exclusive = parts.slots.hold
        self._pool.listen(ProgressRelay(self._resources.sender.send).report)
        first = (parts.registry, parts.cancellations, parts.delegation, parts.heartbeats, self._fence)
        watchers = (parts.task_lag, self._receiver_lag, parts.log_notes)
        last = (parts.receiver, parts.reaper, *watchers, parts.log_upkeep)
        for part in first:
            part.start()
        await app.agents["worker"].start()
        parts.intake.start()
        watching = [asyncio.create_task(self._sample()), asyncio.create_task(parts.conservation.run())]
        try:
            async with running(app):
                for late in last:
                    late.start()
                yield
        finally:
            for task in watching:
                task.cancel()
            await asyncio.to_thread(parts.intake.drain)
            await self._pool.close()
            for ending in (*last, *reversed(first)):
                await asyncio.to_thread(ending.close)

    async def _drain(self, hurry: asyncio.Event) -> None:
        """Leaves the intake's group, gives running attempts their time and, if no claim is left, says the boot is over.

        `hurry` cuts that time short.
        """
        parts = self._parts
        self._is_draining = True
        parts.heartbeats.set_draining()
        drain_s = self._settings.drain_s
        log.info("Node %s drains: %d slots in use get %g s", self._node.name, parts.slots.used, drain_s)
        has_left = await asyncio.to_thread(parts.intake.drain)
        if await self._drain_worker(hurry) and has_left:
            try:
                await self._end_in_order()
            except TimeoutError:  # the lock's file keeps the boot: the next process of this node declares it dead
                log.info(
                    "Kafka has not taken the last records of boot %s; others repair what is missing", self._node.boot
                )

    async def _end_in_order(self) -> None:
        """Sends what is left, then says that the boot is over. TimeoutError when Kafka does not take it."""
        parts = self._parts
        async with asyncio.timeout(_LAST_RECORDS_S):
            await parts.finisher.close()
        for part in (self._fence, parts.heartbeats):  # neither may react to the death notice that follows
            await asyncio.to_thread(part.close)
        notice = drain_notice(parts.heartbeats.heartbeat())
        await asyncio.to_thread(self._resources.sender.deliver(notice.encode()).result, _DEATH_NOTICE_S)
        self._node.release_lock()

    async def _drain_worker(self, hurry: asyncio.Event) -> bool:
        """Whether Kafka knows the end of every attempt."""
        worker = self._parts.worker
        draining = asyncio.create_task(worker.drain(self._settings.drain_s))
        hurrying = asyncio.create_task(hurry.wait())
        await asyncio.wait({draining, hurrying}, return_when=asyncio.FIRST_COMPLETED)
        hurrying.cancel()
        if not draining.done():
            draining.cancel()
            draining = asyncio.create_task(worker.drain(0.0))
        return await draining

    def _end_boot(self, _old_boot: str) -> None:
        """First hook of the fence: kills what the old boot runs, before others hear that it is over."""
        self._pool.kill_all()
        self._in_loop(self._parts.finisher.drop_delayed_retries)

    def _send_death_notice(self, boot: str) -> None:
        with contextlib.suppress(TimeoutError):  # the sender goes on with it
            self._resources.sender.deliver(own_death_notice(self._node, boot).encode()).result(_DEATH_NOTICE_S)
        self._parts.heartbeats.beat_now()

    async def _sample(self) -> None:
        parts = self._parts
        while True:
            parts.stats.sample(parts.slots.used, parts.slots.total, parts.task_lag.waiting())
            await asyncio.sleep(_SAMPLE_S)

    def _in_loop(self, call: Callable[..., Any], *arguments: Any) -> None:
        call_in_loop(self._loop, call, *arguments)


def _signals(loop: asyncio.AbstractEventLoop) -> tuple[asyncio.Event, asyncio.Event]:
    """(stop, hurry): set by the first SIGTERM or SIGINT, and by the second."""
    stop, hurry = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: hurry.set() if stop.is_set() else stop.set())
    return stop, hurry
