"""The storekeeper's process: puts its parts together, serves its health, and ends cleanly at SIGTERM.

Found by the command line as the role `storekeeper`. UsageError when it cannot start; exit code 1 when it ends by an
error, so that whoever runs it starts it again.
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

from agents.faust_kit.app import AppWithoutConsumer, make_app, quiet_logs, running, until_stopped
from agents.faust_kit.health_routes import add_health_routes
from agents.faust_kit.leave_groups import leave_groups
from agents.storekeeper.agent import Storekeeper
from agents.storekeeper.arbiter import Arbiter
from agents.storekeeper.index_catchup import IndexCatchup
from agents.storekeeper.metrics import Metrics
from agents.storekeeper.result_store import ResultStore, RootExchanged
from agents.storekeeper.retry_until import RetryUntilStopped
from agents.storekeeper.terminal_index import TerminalIndex
from headrace.kafka.client import Kafka, log_throttled
from headrace.kafka.groups import STOREKEEPER_GROUP
from headrace.kafka.lag import LagWatch
from headrace.process.failpoints import Failpoint, no_failpoint
from headrace.process.health import STALE_S, Health
from headrace.settings import Settings, address
from headrace.storage.results_root import ResultsRoot, open_results_root

log = logging.getLogger(__name__)


def main(settings: Settings) -> int:
    return run(settings)


def run(settings: Settings, failpoint: Failpoint = no_failpoint) -> int:
    """Runs until SIGTERM or SIGINT; the exit code. `at` is told of each step done, for fault tests."""
    quiet_logs()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))  # until the event loop takes them over
    kafka = Kafka(settings, "headrace-storekeeper")
    while True:
        root = open_results_root(settings, kafka)
        try:
            return asyncio.run(_serve(settings, kafka, root, failpoint))
        except RootExchanged:
            log.warning(
                "the results root %s was away and is back: beginning anew with what is not committed", root.path
            )
        finally:
            root.close()


@dataclass(slots=True)
class _Parts:
    app: faust.App
    storekeeper: Storekeeper
    patience: RetryUntilStopped
    lag: LagWatch


async def _serve(settings: Settings, kafka: Kafka, root: ResultsRoot, failpoint: Failpoint) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with _parts(settings, kafka, root, failpoint) as parts, running(parts.app):
        parts.lag.start()
        work = asyncio.create_task(parts.storekeeper.run())
        waiting = asyncio.create_task(until_stopped(parts.app, stop))
        await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        parts.storekeeper.stop()
        await work  # raises what ended it
    return 0


@contextlib.asynccontextmanager
async def _parts(settings: Settings, kafka: Kafka, root: ResultsRoot, failpoint: Failpoint) -> AsyncIterator[_Parts]:
    own = settings.data / f"storekeeper-{address(settings.storekeeper_http)[1]}"
    metrics, patience, store = Metrics(), RetryUntilStopped(), ResultStore(root)
    index = TerminalIndex(own.with_suffix(".sqlite"))
    with contextlib.ExitStack() as closing:
        closing.callback(index.close)
        closing.callback(store.close)
        await asyncio.to_thread(patience.do, "results root", store.open)
        member = own.with_suffix(".member")
        if member.exists():  # of a process that was killed: the index's lock says that it is gone
            await leave_groups(kafka, {STOREKEEPER_GROUP: member.read_text()})
        arbiter = Arbiter(kafka, store, index, metrics, patience, failpoint)
        closing.callback(arbiter.close)
        reader = IndexCatchup(kafka, index)
        closing.callback(reader.close)
        storekeeper = Storekeeper(kafka, arbiter, reader, patience, partial(_remember_member, member), failpoint)
        lag = LagWatch(kafka, STOREKEEPER_GROUP, storekeeper.partitions, ("results",), ahead=storekeeper.ahead)
        closing.callback(lag.close)
        app = make_app(STOREKEEPER_GROUP, settings, kafka, settings.storekeeper_http, own, app=AppWithoutConsumer)
        storekeeper.attach(app)
        health = Health()
        health.add_check("storekeeper", storekeeper.check)
        health.add_check("waiting", lambda: patience.trouble)
        health.add_check("lag", lag.check)
        health.add_check("Kafka", lambda: _silence(lag))
        metrics.lag.set_function(lambda: float(sum((lag.waiting() or {}).values())))
        add_health_routes(app, health, metrics.registry)
        try:
            yield _Parts(app, storekeeper, patience, lag)
        finally:
            await storekeeper.close()


def _silence(lag: LagWatch) -> str | None:
    """Whether Kafka answers at all: an idle storekeeper would not notice by itself."""
    age_s = lag.age_s()
    if age_s is None:
        return "has not answered yet"
    return f"has not answered for {age_s:.0f} s" if age_s > STALE_S else None


def _remember_member(file: Path, member: str) -> None:
    """Keeps the membership for the process after a crash, which need not wait for the dead one's session to end."""
    try:
        file.write_text(member)
    except OSError as e:  # a full disk: that wait is all it costs
        log_throttled("membership", "The membership cannot be kept in %s: %s", file, e.strerror)
