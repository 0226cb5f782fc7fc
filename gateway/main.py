"""The gateway's process: `headrace gateway`. Starts the parts, serves until told to stop, and stops them in order.

`main` is called by the command line with checked settings. UsageError for what an operator can correct: an address that
is in use or open to others, a different results root, another gateway on the same files. When Kafka is unavailable the
gateway starts anyway, answers 503, and recovers by itself.
"""

import asyncio
import gc
import logging
import socket
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Protocol

import uvicorn
import uvloop
from fastapi import FastAPI

from headrace.errors import Retryable, UsageError
from headrace.kafka.client import Kafka
from headrace.kafka.log_notes import LogNotes
from headrace.kafka.sender import Sender
from headrace.process.health import Health, StallDetector
from headrace.process.host_check import is_loopback
from headrace.process.throttled_log import log_throttled
from headrace.settings import Settings
from headrace.storage.results_root import ResultsRoot, open_directory, open_results_root
from headrace.storage.sqlite import trouble

from .app import make_app
from .http.guard import check_address
from .kafka.broker_probe import BrokerProbe, Offsets
from .kafka.receipts import Receipts
from .kafka.source_reader import SourceReader
from .metrics import Metrics
from .routes.dependencies import Dependencies
from .statistics_store import StatisticsStore
from .submission import Submissions
from .view.attention import Attention
from .view.close_reader import PATIENT, QUICK, CloseReader
from .view.cluster import TOPICS as CLUSTER_TOPICS
from .view.cluster import ClusterView
from .view.notifier import Notifier
from .view.projector import TOPICS, Projector
from .view.snapshot_folder import SnapshotFolder
from .view.snapshots import Snapshots, SnapshotWriter
from .view.store import StatusStore

log = logging.getLogger(__name__)

SEND_TIMEOUT_S = 4.0  # the gateway promises a 503 within 5 s of losing Kafka
# How long the projector's thread may run while a request waits: Python's default, 5 ms, is more than a request takes.
_SWITCH_S = 0.0005
_FILE_RETRY_S = 0.5
_STOP_S = 3  # for requests in progress; event streams end at once


def main(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code."""
    host, port = check_address(settings)
    listening = _listen(host, port)
    kafka = Kafka(settings, f"headrace-gateway-{port}")
    root = open_directory(settings.results_root)
    store = _open_store(settings.make_data_folder() / f"gateway-{port}.sqlite")
    try:
        sys.setswitchinterval(_SWITCH_S)
        uvloop.run(_serve(settings, kafka, root, store, listening))
    finally:
        store.close()
        root.close()
        listening.close()
    return 0


def _open_store(path: Path) -> StatusStore:
    """Waits while the file cannot be used: the disk is full, or another process has locked it."""
    while True:
        try:
            return StatusStore(path)
        except sqlite3.OperationalError as e:
            log_throttled(f"waits for {path}", "the gateway waits for its file %s: %s", path, trouble(e))
            time.sleep(_FILE_RETRY_S)


async def _serve(
    settings: Settings, kafka: Kafka, root: ResultsRoot, store: StatusStore, listening: socket.socket
) -> None:
    async with running(settings, kafka, root, store) as deps:
        app = make_app(deps, any_host=settings.insecure)
        server = Server(_config(app), deps.notifier)
        gc.collect()
        gc.freeze()  # later collections skip the objects of the start: a third of the p99 latency
        log.info("gateway on http://%s:%d/", *listening.getsockname()[:2])
        root_check = asyncio.create_task(_check_results_root(settings, kafka, server, deps))
        await server.serve(sockets=[listening])
        if root_check.done():
            root_check.result()
        root_check.cancel()


async def _check_results_root(settings: Settings, kafka: Kafka, server: uvicorn.Server, deps: Dependencies) -> None:
    """Compares the results root with the one registered in Kafka, while the gateway serves; UsageError ends it."""
    reason: list[str] = ["not yet compared with the results root registered in Kafka"]
    deps.health.add_check("results root", lambda: reason[0] if reason else None)
    try:
        while True:
            try:
                root = await asyncio.to_thread(open_results_root, settings, kafka, 5.0)
            except Retryable:
                continue  # Kafka is unavailable
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
    """Starts what handlers depend on, and stops it in order at the end. The caller closes the store and the root."""
    deps = _make_dependencies(settings, kafka, root, store)
    readers = [CloseReader(kafka, deps.projector, deps.attention, pace) for pace in (QUICK, PATIENT)]
    threads: list[_Thread] = [deps.projector, *readers, deps.cluster, deps.broker_probe, deps.log_notes]
    if deps.snapshot_writer is not None:
        threads.append(deps.snapshot_writer)
    for thread in threads:
        thread.start()
    try:
        yield deps
    finally:
        deps.notifier.close()
        for thread in threads:
            await asyncio.to_thread(thread.close)
        await asyncio.to_thread(deps.sender.close, SEND_TIMEOUT_S)
        await asyncio.to_thread(deps.source_reader.close)
        await asyncio.to_thread(deps.statistics.close)


def _make_dependencies(settings: Settings, kafka: Kafka, root: ResultsRoot, store: StatusStore) -> Dependencies:
    """Makes all parts, with the readiness checks of each. None of their threads has started."""
    metrics = Metrics()
    notifier = Notifier(asyncio.get_running_loop())
    snapshots = _snapshots(settings, root)
    projector = Projector(kafka, store, metrics, notifier.notify, snapshots, settings.view_days)
    cluster = ClusterView(kafka)
    sender = Sender(kafka, SEND_TIMEOUT_S)
    source_reader = SourceReader(kafka)
    stall_detector = StallDetector("the status view")

    def report_lag(end_offsets: Offsets) -> None:
        positions = projector.snapshot.positions
        lag = sum(max(0, end - positions.get(partition, 0)) for partition, end in end_offsets.items())
        metrics.lag.set(lag)
        projector.catching_up.probed(end_offsets)
        stall_detector.update(sum(positions.values()), lag)

    def drop_errors() -> None:
        source_reader.drop_errors()
        kafka.drop_errors()

    deps = Dependencies(
        store=store,
        projector=projector,
        snapshot_writer=SnapshotWriter(store, snapshots, projector.whole_positions) if snapshots else None,
        cluster=cluster,
        notifier=notifier,
        attention=Attention(),
        broker_probe=BrokerProbe(kafka, lambda: projector.places, report_lag, drop_errors),
        sender=sender,
        receipts=Receipts(sender, asyncio.get_running_loop()),
        source_reader=source_reader,
        submissions=Submissions(cluster, allow_high_priority=is_loopback(settings.http.rpartition(":")[0])),
        health=Health(),
        metrics=metrics,
        results_root=root,
        statistics=StatisticsStore(settings.database),
        log_notes=LogNotes(kafka, (*TOPICS, *CLUSTER_TOPICS), metrics.registry),
    )
    deps.health.add_notes(deps.log_notes.notes)
    deps.health.add_notes(deps.projector.notes)
    deps.health.add_check("kafka", deps.broker_probe.check)
    deps.health.add_check("sender", deps.sender.check)
    metrics.registry.register(store.rebuilds)
    deps.health.add_check("status view's file", store.rebuilds.check)
    deps.health.add_check("status view", projector.check)
    deps.health.add_check("status view's progress", stall_detector.check)
    deps.health.add_check("kinds", cluster.check)
    deps.health.add_check("results", root.check)
    return deps


def _snapshots(settings: Settings, root: ResultsRoot) -> Snapshots | None:
    if settings.view_snapshots == "none":
        return None
    return Snapshots(SnapshotFolder(root, settings.view_snapshots), every_s=settings.view_snapshot_s)


class _Thread(Protocol):
    def start(self) -> None: ...

    def close(self) -> None: ...


class Server(uvicorn.Server):
    """Ends event streams as soon as it is told to stop; otherwise it would wait for them forever."""

    def __init__(self, config: uvicorn.Config, notifier: Notifier) -> None:
        super().__init__(config)
        self._notifier = notifier

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._notifier.close()
        super().handle_exit(sig, frame)
        # uvicorn would raise the signal again after it has stopped, and the exit code would be that of a failure.
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
        proxy_headers=False,  # nothing here asks for the client's address or scheme
        timeout_keep_alive=60,
        ws="none",
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only when the protocol is given; without it every answer takes 40 ms longer.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(2048)
    except OSError as e:
        listening.close()
        raise UsageError(
            f"the gateway cannot listen on HEADRACE_HTTP, {host}:{port}: {e.strerror}; set another host:port"
        ) from None
    listening.setblocking(False)
    return listening
