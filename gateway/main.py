"""The gateway's process: `headrace gateway`. Wires the parts together, serves until told to stop, and gives them back.

`main` is called by the command line with checked settings. UsageError for what a person can put right: an address that
is taken or would be open to all, another results root, another gateway on the same files. Kafka being away is none of
these: the gateway comes up, says 503, and goes on when Kafka is there.
"""

import asyncio
import gc
import logging
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType

import uvicorn
import uvloop
from fastapi import FastAPI

from gateway.app import make_app
from gateway.http.guard import check_address
from gateway.kafka.broker_probe import BrokerProbe, Ends
from gateway.kafka.source_reader import SourceReader
from gateway.metrics import Metrics
from gateway.routes.dependencies import Dependencies
from gateway.statistics_store import StatisticsStore
from gateway.submission import Submissions
from gateway.view.cluster import ClusterView
from gateway.view.notifier import Notifier
from gateway.view.projector import Projector
from gateway.view.store import StatusStore
from headrace.errors import Retryable, UsageError
from headrace.kafka.client import Kafka, Sender
from headrace.process.health import Health, StallDetector
from headrace.process.host_check import is_loopback
from headrace.settings import Settings
from headrace.storage.results_root import ResultsRoot, open_directory, open_results_root

log = logging.getLogger(__name__)

SEND_TIMEOUT_S = 4.0  # the contract answers 503 within 5 s of Kafka's being away
# How long the folding thread may go on while a request waits for its turn: Python's 5 ms are more than a request takes.
_SWITCH_S = 0.0005
_STOP_S = 3  # for requests under way; event streams are ended at once


def main(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT; the exit code."""
    host, port = check_address(settings)
    listening = _listen(host, port)
    kafka = Kafka(settings, f"headrace-gateway-{port}")
    root = open_directory(settings.results_root)
    store = StatusStore(settings.data / f"gateway-{port}.sqlite")
    try:
        sys.setswitchinterval(_SWITCH_S)
        uvloop.run(_serve(settings, kafka, root, store, listening))
    finally:
        store.close()
        root.close()
        listening.close()
    return 0


async def _serve(
    settings: Settings, kafka: Kafka, root: ResultsRoot, store: StatusStore, listening: socket.socket
) -> None:
    async with running(settings, kafka, root, store) as parts:
        app = make_app(parts, any_host=settings.insecure)
        server = Server(_config(app), parts.feed)
        gc.collect()
        gc.freeze()  # what start-up made stays: later collections are short (p99 a third of what it was)
        log.info("gateway on http://%s:%d/", *listening.getsockname()[:2])
        agreed = asyncio.create_task(_agree(settings, kafka, server, parts))
        await server.serve(sockets=[listening])
        if agreed.done():
            agreed.result()
        agreed.cancel()


async def _agree(settings: Settings, kafka: Kafka, server: uvicorn.Server, parts: Dependencies) -> None:
    """Compares the results root with the one Kafka knows while the gateway serves; ends it when they differ."""
    reason: list[str] = ["it has not been compared with the one that Kafka knows"]
    parts.health.add_check("results root", lambda: reason[0] if reason else None)
    try:
        while True:
            try:
                root = await asyncio.to_thread(open_results_root, settings, kafka, 5.0)
            except Retryable:
                continue  # Kafka is away
            root.close()
            reason.clear()
            return
    except UsageError:
        server.should_exit = True
        raise


@asynccontextmanager
async def running(
    settings: Settings, kafka: Kafka, root: ResultsRoot, store: StatusStore
) -> AsyncIterator[Dependencies]:
    """The gateway's parts at work, and stopped in order at the end. The store and the root stay the caller's."""
    metrics = Metrics()
    feed = Notifier(asyncio.get_running_loop())
    view = Projector(kafka, store, metrics, feed.tell)
    cluster = ClusterView(kafka)
    stall_detector = StallDetector("the status view")

    def told(ends: Ends) -> None:
        at = view.snapshot.positions
        lag = sum(max(0, end - at.get(place, 0)) for place, end in ends.items())
        metrics.lag.set(lag)
        stall_detector.update(sum(at.values()), lag)

    reach = BrokerProbe(kafka, lambda: list(view.snapshot.positions), told)
    sender, sources = Sender(kafka, SEND_TIMEOUT_S), SourceReader(kafka)
    submissions = Submissions(cluster, may_be_high=is_loopback(settings.http.rpartition(":")[0]))
    statistics = StatisticsStore(settings.database)
    health = Health()
    for part, check in (
        ("kafka", reach.check),
        ("status view", view.check),
        ("status view's progress", stall_detector.check),
        ("kinds", cluster.check),
        ("results", root.check),
    ):
        health.add_check(part, check)
    for thread in (view, cluster, reach):
        thread.start()
    try:
        yield Dependencies(
            store, view, cluster, feed, reach, sender, sources, submissions, health, metrics, root, statistics
        )
    finally:
        feed.close()
        for thread in (reach, view, cluster):
            await asyncio.to_thread(thread.stop)
        await asyncio.to_thread(sender.close, SEND_TIMEOUT_S)
        await asyncio.to_thread(sources.close)
        await asyncio.to_thread(statistics.close)


class Server(uvicorn.Server):
    """Ends event streams as soon as it is told to stop: they would hold it up for ever."""

    def __init__(self, config: uvicorn.Config, feed: Notifier) -> None:
        super().__init__(config)
        self._feed = feed

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._feed.close()
        super().handle_exit(sig, frame)
        # uvicorn would raise the signal anew when it has stopped: stopping when told to is no failure.
        captured: list[int] = getattr(self, "_captured_signals", [])
        captured.clear()


def _config(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_STOP_S,
        lifespan="off",
        http="httptools",
        server_header=False,
        timeout_keep_alive=60,
        ws="none",
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol left open asyncio would not set TCP_NODELAY on connections: each answer would take 40 ms more.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(2048)
    except OSError as e:
        listening.close()
        raise UsageError(
            f"HEADRACE_HTTP is {host}:{port}, where the gateway cannot listen: {e.strerror}; give another host:port"
        ) from None
    listening.setblocking(False)
    return listening
