"""The storekeeper's process: makes its parts, serves its health, and ends cleanly at SIGTERM.

The command line starts it as the role `storekeeper`. UsageError when it cannot start; exit code 1 when an error ends
it, so that its supervisor starts it again.
"""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import faust

from headrace.kafka.client import Kafka
from headrace.kafka.groups import STOREKEEPER_GROUP
from headrace.kafka.lag import LagWatch
from headrace.kafka.log_notes import LogNotes
from headrace.process.failpoints import Failpoint, no_failpoint
from headrace.process.health import STALE_S, Health
from headrace.process.throttled_log import log_throttled
from headrace.settings import Settings, parse_address
from headrace.storage.rebuilds import Rebuilds
from headrace.storage.results_root import ResultsRoot, open_results_root

from ..faust_kit.app import make_app, quiet_logs, running, until_stopped
from ..faust_kit.health_routes import add_health_routes
from ..faust_kit.leave_groups import leave_groups
from .agent import Storekeeper
from .arbiter import Arbiter
from .index_catchup import IndexCatchup
from .index_snapshots import IndexSnapshots
from .index_upkeep import IndexUpkeep
from .metrics import Metrics
from .result_store import ResultStore, RootExchanged
from .retry_until import RetryUntilStopped, Stopped
from .terminal_index import OUTPUTS, IndexDamaged, TerminalIndex
from .trimmer import ResultsTrimmer

log = logging.getLogger(__name__)


def main(settings: Settings) -> int:
    return run(settings)


def run(settings: Settings, failpoint: Failpoint = no_failpoint) -> int:
    """Runs until SIGTERM or SIGINT; returns the exit code. `failpoint` is called at each step, for fault tests."""
    quiet_logs()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))  # until the event loop takes them over
    kafka = Kafka(settings, "headrace-storekeeper")
    settings.make_data_folder()
    rebuilds = Rebuilds("terminal index")
    while True:
        root = open_results_root(settings, kafka)
        try:
            return asyncio.run(_serve(settings, kafka, root, rebuilds, failpoint))
        except RootExchanged:
            log.warning(
                "the results root %s was away and is back: starting again from the committed offsets", root.path
            )
        except IndexDamaged as e:
            log.warning("starting again from the committed offsets: %s", e)
        finally:
            root.close()


@dataclass(slots=True)
class _Parts:
    app: faust.App
    storekeeper: Storekeeper
    lag: LagWatch
    log_notes: LogNotes
    trimmer: ResultsTrimmer


async def _serve(settings: Settings, kafka: Kafka, root: ResultsRoot, rebuilds: Rebuilds, failpoint: Failpoint) -> int:
    stop, retry = asyncio.Event(), RetryUntilStopped()

    def on_signal() -> None:
        stop.set()
        retry.stop()  # also while the parts are made, which waits for the disk and the results root

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    with contextlib.suppress(Stopped):
        await _run_until(stop, _make_parts(settings, kafka, root, retry, rebuilds, failpoint))
    return 0


async def _run_until(stop: asyncio.Event, making: contextlib.AbstractAsyncContextManager[_Parts]) -> None:
    async with making as parts, running(parts.app):
        parts.lag.start()
        parts.log_notes.start()
        parts.trimmer.start()
        work = asyncio.create_task(parts.storekeeper.run())
        waiting = asyncio.create_task(until_stopped(parts.app, stop))
        await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        parts.storekeeper.stop()
        await work  # raises what ended it


@contextlib.asynccontextmanager
async def _make_parts(
    settings: Settings,
    kafka: Kafka,
    root: ResultsRoot,
    retry: RetryUntilStopped,
    rebuilds: Rebuilds,
    failpoint: Failpoint,
) -> AsyncIterator[_Parts]:
    own = settings.make_data_folder() / f"storekeeper-{parse_address(settings.storekeeper_http)[1]}"
    metrics, store = Metrics(), ResultStore(root)
    metrics.registry.register(rebuilds)
    index = await asyncio.to_thread(
        retry.until_done, "index", lambda: TerminalIndex(own.with_suffix(".sqlite"), rebuilds)
    )
    with contextlib.ExitStack() as closing:
        closing.callback(index.close)
        closing.callback(store.close)
        await asyncio.to_thread(retry.until_done, "results root", store.open)
        member = own.with_suffix(".member")
        if member.exists():  # left by a process that was killed; it is gone, as this one holds the index's lock
            await leave_groups(kafka, {STOREKEEPER_GROUP: member.read_text()})
        arbiter = Arbiter(kafka, store, index, metrics, retry, failpoint=failpoint)
        closing.callback(arbiter.close)
        snapshots = IndexSnapshots(root)
        catchup = IndexCatchup(kafka, index, snapshots, settings.remember_days)
        closing.callback(catchup.close)
        upkeep = IndexUpkeep(index, snapshots)
        closing.callback(upkeep.close)
        on_member = partial(_remember_member, member)
        storekeeper = Storekeeper(kafka, arbiter, catchup, retry, on_member=on_member, failpoint=failpoint)
        ahead = storekeeper.handled_past_commit
        lag = LagWatch(kafka, STOREKEEPER_GROUP, storekeeper.judged_partitions, ("results",), ahead=ahead)
        closing.callback(lag.close)
        log_notes = LogNotes(kafka, ("results", *OUTPUTS), metrics.registry)
        closing.callback(log_notes.close)
        trimmer = ResultsTrimmer(kafka, settings.keep_s, storekeeper.partitions, metrics.trimmed.inc)
        closing.callback(trimmer.close)
        app = make_app(STOREKEEPER_GROUP, settings, kafka, settings.storekeeper_http, own)
        storekeeper.attach(app)
        metrics.lag.set_function(lambda: float(sum((lag.waiting() or {}).values())))
        health = _health(storekeeper, retry, lag)
        # Without a partition there is nothing to read into it, and nothing to judge.
        health.add_check("index", lambda: rebuilds.check() if storekeeper.partitions() else None)
        health.add_notes(log_notes.notes)
        add_health_routes(app, health, metrics.registry)
        upkeep.start()
        try:
            yield _Parts(app, storekeeper, lag, log_notes, trimmer)
        finally:
            await storekeeper.close()


def _health(storekeeper: Storekeeper, retry: RetryUntilStopped, lag: LagWatch) -> Health:
    health = Health()
    health.add_check("storekeeper", storekeeper.check)
    health.add_check("waiting", lambda: retry.trouble)
    health.add_check("lag", lag.check)
    health.add_check("Kafka", lambda: _kafka_silence(lag))
    return health


def _kafka_silence(lag: LagWatch) -> str | None:
    """The reason when Kafka does not answer, which an idle storekeeper would not notice otherwise."""
    age_s = lag.age_s()
    if age_s is None:
        return "has not answered yet"
    return f"has not answered for {age_s:.0f} s" if age_s > STALE_S else None


def _remember_member(file: Path, member: str) -> None:
    """Keeps the member id for the process that follows a crash, so that it need not wait for the session to end."""
    try:
        file.write_text(member)
    except OSError as e:  # a full disk: the next process will have to wait
        log_throttled("membership", "The membership cannot be written to %s: %s", file, e.strerror)
