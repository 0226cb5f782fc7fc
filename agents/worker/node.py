"""A worker node put together: what its parts are, the order they begin in, and how they end.

Called by `agents.worker.main`, which has taken the node's lock and has the pool's children on their way. The worker
agent and the intake begin before Faust's slower parts: a task that waits is started while the rest joins its groups.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from typing import Any

import faust

from agents.completion.claim_members import ClaimMembers
from agents.completion.finisher import Finisher
from agents.execution.pool import Pool
from agents.execution.progress import ProgressRelay
from agents.execution.slots import Slots
from agents.faust_kit.app import make_app, member_id, quiet_logs, running, until_stopped
from agents.faust_kit.health_routes import add_health_pages
from agents.intake.cancellations import Cancellations
from agents.intake.delegation import Delegation
from agents.intake.intake import Intake
from agents.intake.micro_batching import RunTimes
from agents.membership.death_notices import own_death_notice
from agents.membership.failure_detector import FailureDetector
from agents.membership.fencing import Fence
from agents.membership.heartbeats import Heartbeats
from agents.membership.identity import NodeIdentity, Predecessor
from agents.membership.registry import Registry
from agents.membership.takeover import take_over
from agents.monitoring.stats import NodeStats
from agents.monitoring.stats_page import NodeView, add_stats_page
from agents.receiver.receiver import Receiver
from agents.recovery.reaper import Reaper
from agents.recovery.trimmer import Trimmer
from agents.worker.agent import Worker
from agents.worker.preflight import check_offsets, wait_for_topics
from headrace.contract.cluster import KindInfo
from headrace.errors import UsageError
from headrace.kafka.client import Kafka, Sender
from headrace.kafka.groups import INTAKE_GROUP, RECEIVER_GROUP
from headrace.kafka.lag import LagWatch
from headrace.process.failpoints import Failpoint, no_failpoint
from headrace.process.health import Health
from headrace.settings import Settings, address

log = logging.getLogger(__name__)

_SAMPLE_S = 1.0
_TOPICS = (
    "tasks.normal",
    "tasks.high",
    "tasks.running",
    "tasks.control",
    "results",
    "nodes",
    "kinds",
    "lifecycle.received",
    "lifecycle.started",
    "progress",
)


def run(
    settings: Settings,
    kafka: Kafka,
    node: NodeIdentity,
    before: Predecessor | None,
    pool: Pool,
    kinds: Future[list[KindInfo]],
    failpoint: Failpoint = no_failpoint,
) -> int:
    """Runs the node until SIGTERM or SIGINT; the exit code. `kinds`: what the children have loaded, or UsageError."""
    quiet_logs()
    wait_for_topics(kafka, _TOPICS, lambda: kinds.result() if kinds.done() else None)
    receiver_lag = LagWatch(kafka, RECEIVER_GROUP, lambda: ())
    check_offsets(receiver_lag, kafka.group(RECEIVER_GROUP))
    receiver_lag.close()
    sender = Sender(kafka)
    try:
        if before is not None:
            take_over(kafka, sender, node, before)
        worker_node = WorkerNode(settings, kafka, sender, node, pool, kinds.result(), failpoint)
        return asyncio.run(worker_node.serve())
    finally:
        sender.close()


class WorkerNode:
    """All parts of one node. `serve` may be called once."""

    def __init__(
        self,
        settings: Settings,
        kafka: Kafka,
        sender: Sender,
        node: NodeIdentity,
        pool: Pool,
        kinds: list[KindInfo],
        failpoint: Failpoint,
    ) -> None:
        self._settings, self._kafka, self._sender, self._node, self._pool = settings, kafka, sender, node, pool
        self._kinds = kinds
        self._is_draining = False
        self._slots = Slots(settings.slot_count)
        self._stats = NodeStats()
        self._fence = Fence(node, settings.lease_s, [self._end_boot, self._say_dead])
        self._view = Registry(kafka, kinds, FailureDetector(settings.lease_s), self._fence.declared_dead)
        self._control = Cancellations(kafka, node.control_path)
        members, run_times = ClaimMembers(), RunTimes()
        self._finisher = Finisher(sender, node, self._control.is_cancelled, failpoint, members)
        self._worker = Worker(
            self._slots,
            pool,
            self._finisher,
            self._stats,
            run_times,
            lambda job: job.claim.for_ == node.boot,
            self._control.is_cancelled,
        )
        self._delegation = Delegation(
            kafka, sender, node, self._slots, self._view, self._control, self._worker.hand_over, failpoint
        )
        self._intake = Intake(
            kafka,
            sender,
            node,
            self._slots,
            self._view,
            self._control,
            self._worker.hand_over,
            failpoint,
            self._delegation,
            run_times,
            members,
        )
        self._heartbeats = Heartbeats(
            sender, node, self._slots.total, kinds, pool.running, f"http://{settings.stats_http}/"
        )
        self._reaper = Reaper(
            kafka, sender, node, self._view, failpoint, Trimmer(kafka, settings.keep_s, failpoint=failpoint)
        )
        for reader in (self._view, self._control, self._delegation, self._reaper):
            reader.passed_over = self._stats.passed_over
        self._receiver = Receiver(kafka, sender)
        self._waiting = LagWatch(
            kafka,
            INTAKE_GROUP,
            lambda: self._intake.places,
            is_excused=lambda: not self._slots.free or self._intake.waits_for_others,
        )
        self._receiver_lag = LagWatch(kafka, RECEIVER_GROUP, self._receiver_places)
        self._app: faust.App | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self) -> int:
        """Until a signal, or until a part ends by an error. UsageError when the group has lost its offsets."""
        self._loop = asyncio.get_running_loop()
        stop, hurry = _signals(self._loop)
        self._intake.on_failure = lambda _: self._in_loop(stop.set)
        self._reaper.on_failure = lambda _: self._in_loop(stop.set)
        self._control.on_cancel = lambda task_id: self._in_loop(self._pool.cancel, task_id)
        app = self._app = self._make_app()
        async with self._working(app):
            await until_stopped(app, stop)
            if not app.should_stop:
                await self._drain(hurry)
        if self._intake.failure is not None:
            raise UsageError(self._intake.failure)
        if self._reaper.failure is not None:
            raise self._reaper.failure  # an end by an error: whoever runs this role starts it again
        return 0

    def _make_app(self) -> faust.App:
        folder = self._settings.data / f"worker-{address(self._settings.stats_http)[1]}"
        app = make_app(
            RECEIVER_GROUP,
            self._settings,
            self._kafka,
            self._settings.stats_http,
            folder,
            consumer_auto_offset_reset="earliest",
            broker_commit_interval=1.0,
        )
        self._worker.attach(app)
        self._receiver.attach(app)
        app.on_partitions_assigned.connect(self._joined)  # type: ignore[arg-type]
        health = self._health(app)
        add_stats_page(app, self._page(health))
        add_health_pages(app, health, self._stats.registry, lambda: self._stats.ready.set(not health.reasons()))
        return app

    @contextlib.asynccontextmanager
    async def _working(self, app: faust.App) -> AsyncIterator[None]:
        """Everything at work; at the end everything ended, what others rely on last."""
        self._pool.on_alone = self._slots.hold
        self._pool.listen(ProgressRelay(self._sender.send).report)
        parts = (self._view, self._control, self._delegation, self._heartbeats, self._fence)
        for part in parts:
            part.start()
        await app.agents["worker"].start()
        self._intake.start()
        sampling = asyncio.create_task(self._sample())
        try:
            async with running(app):
                for late in (self._reaper, self._waiting, self._receiver_lag):
                    late.start()
                yield
        finally:
            sampling.cancel()
            await asyncio.to_thread(self._intake.drain)
            await self._pool.close()
            for ending in (self._reaper, self._waiting, self._receiver_lag, *reversed(parts), self._receiver):
                await asyncio.to_thread(ending.close)

    async def _drain(self, hurry: asyncio.Event) -> None:
        """Leaves the group, then gives what runs its time; then this boot has no claims left, and says it is over."""
        self._is_draining = True
        self._heartbeats.draining()
        log.info("Node %s is drained: %d attempts get %g s", self._node.name, self._slots.used, self._settings.drain_s)
        left = await asyncio.to_thread(self._intake.drain)
        draining = asyncio.create_task(self._worker.drain(self._settings.drain_s))
        hurrying = asyncio.create_task(hurry.wait())
        await asyncio.wait({draining, hurrying}, return_when=asyncio.FIRST_COMPLETED)
        hurrying.cancel()
        if not draining.done():
            draining.cancel()
            draining = asyncio.create_task(self._worker.drain(0.0))
        if await draining and left:
            await self._finisher.close()
            for part in (self._fence, self._heartbeats):  # neither may answer to the word that follows
                await asyncio.to_thread(part.close)
            await asyncio.to_thread(self._say_dead, self._node.boot)
            self._node.release()

    def _end_boot(self, _old: str) -> None:
        """Self-fencing: what the old boot ran is killed before anybody hears that it is over."""
        self._pool.kill_all()
        self._in_loop(self._finisher.drop_waiting)

    def _say_dead(self, boot: str) -> None:
        self._sender.send(own_death_notice(self._node, boot).encode()).result(10)
        self._heartbeats.beat_now()

    def _health(self, app: faust.App) -> Health:
        health = Health()
        health.add("intake", lambda: self._intake.check() or self._waiting.check())
        health.add("control", self._control.check)
        health.add("kinds", self._view.check)
        health.add("delegation", self._delegation.check)
        health.add("heartbeats", self._heartbeats.check)
        health.add("fence", self._fence.check)
        health.add("reaper", self._reaper.check)
        health.add("pool", self._pool.check)
        health.add("receiver", self._receiver.check)
        health.add("receiver's offsets", self._receiver_lag.check)
        health.add("receiver group", lambda: None if app.started and not app.rebalancing else "has not joined yet")
        health.add("worker agent", lambda: None if self._slots.is_open else "is not at work: no task is started")
        return health

    def _page(self, health: Health) -> NodeView:
        return NodeView(
            node=self._node.name,
            boot=lambda: self._node.boot,
            pid=self._node.pid,
            started_ms=self._node.started_ms,
            slots=self._slots.total,
            used=lambda: self._slots.used,
            running=self._pool.running,
            draining=lambda: self._is_draining,
            health=health,
            stats=self._stats,
            waiting=self._waiting.waiting,
            waiting_age_s=self._waiting.age_s,
            partitions=lambda: self._intake.places,
            limits_s={kind.name: kind.timeout_s for kind in self._kinds},
        )

    async def _sample(self) -> None:
        while True:
            self._stats.sample(self._slots.used, self._slots.total, self._waiting.waiting())
            await asyncio.sleep(_SAMPLE_S)

    async def _joined(self, app: Any, *_: Any, signal: Any, **__: Any) -> None:
        """Keeps the receiver's membership for the process after a crash, which need not wait for its session to end."""
        self._node.remember(RECEIVER_GROUP, member_id(app))

    def _receiver_places(self) -> list[tuple[str, int]]:
        if self._app is None or not self._app.started:
            return []
        return [(self._kafka.unprefixed(at.topic), at.partition) for at in self._app.consumer.assignment()]

    def _in_loop(self, call: Callable[..., Any], *arguments: Any) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *arguments)


def _signals(loop: asyncio.AbstractEventLoop) -> tuple[asyncio.Event, asyncio.Event]:
    """(stop, hurry): set by the first SIGTERM or SIGINT, and by the second."""
    stop, hurry = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: hurry.set() if stop.is_set() else stop.set())
    return stop, hurry
