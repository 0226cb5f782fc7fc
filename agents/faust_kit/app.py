"""What our Faust apps have in common: their settings, quiet logs, start and stop.

The worker's and the storekeeper's apps are made here and run in the role's own event loop; the role handles signals.
No app reads or writes Kafka itself: plain consumers feed the agents over channels. Faust's own client, aiokafka, lacks
codecs that producers use, reads uncommitted records, and stops for ever at a record that it cannot decode.
"""

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Any

import faust
from faust.tables import TableManager

from headrace.kafka.client import Kafka
from headrace.process.throttled_log import Throttle
from headrace.settings import Settings, parse_address

from .web_guard import guard


class _NoTables(TableManager):
    """Our apps have no tables to recover; the original sleeps for a second before it finds that out."""

    async def on_start(self) -> None:
        if not self.should_stop:
            await self._update_channels()
            await self.recovery.start()


_NoTables.logger = logging.getLogger(TableManager.__module__)  # the level set for the original applies


class _App(faust.App):
    """An app whose agents are fed only over channels: it runs no Kafka client, and no thread for one."""

    class BootStrategy(faust.app.BootStrategy):
        enable_kafka = False

    def _new_consumer(self) -> Any:
        """Faust's streams want one at hand. It is never started, so nothing else closes its thread's event loop."""
        made: Any = super()._new_consumer()
        made._thread.thread_loop.close()
        return made

    async def _wait_for_table_recovery_completed(self) -> bool:
        return False  # tables are recovered; the original would wait for a consumer


def make_app(name: str, settings: Settings, kafka: Kafka, http: str, folder: Path) -> faust.App:
    """An app named `name` (with the installation's prefix) that serves only our own pages at `http` (host:port).

    `folder` belongs to the app and is created here. UsageError for an `http` that is open to the network without
    consent.
    """
    host, port = parse_address(http)
    datadir = folder / "faust" / name
    datadir.mkdir(parents=True, exist_ok=True)  # Faust itself creates the last component only
    made = _App(
        kafka.group(name),
        broker=";".join(f"kafka://{server.strip()}" for server in kafka.bootstrap.split(",")),  # only names it
        topic_disable_leader=True,
        table_standby_replicas=0,
        TableManager=_NoTables,
        datadir=str(datadir),
        autodiscover=False,
        web_enabled=True,
        web_bind=host,
        web_port=port,
        web_host=host,
        web_router_enabled=False,
        web_tables_enabled=False,
        web_graph_enabled=False,
        web_stats_enabled=False,
        web_metrics_enabled=False,
    )
    made.web.blueprints = type(made.web.blueprints)()  # without Faust's own pages, even its index
    guard(made.web.web_app, settings, http)  # type: ignore[attr-defined]  # Faust's only web driver is aiohttp's
    return made


@contextlib.asynccontextmanager
async def running(app: faust.App) -> Any:
    """Starts the app, and stops it at the end of the block, where an app that crashed raises its error."""
    await app.start()
    try:
        yield app
    finally:
        await app.stop()
    if app.crash_reason:
        raise app.crash_reason


async def until_stopped(app: faust.App, stop: asyncio.Event) -> None:
    """Waits for `stop`, or for the app to crash or stop by itself."""
    waits = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(app.wait_until_stopped())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


class _OncePerMinute(logging.Filter):
    """Lets each log statement of Faust and aiokafka through once a minute, so that an outage does not flood the log."""

    def __init__(self) -> None:
        super().__init__()
        self._throttle = Throttle()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.split(".")[0] not in ("faust", "mode", "aiokafka"):
            return True
        held_back = self._throttle.passes(f"{record.name}:{record.lineno}")
        if held_back:
            record.msg = f"{record.msg} ({held_back} more like it since)"
        return held_back is not None


def quiet_logs() -> None:
    """Limits Faust and its parts to warnings, once a minute each. Called by a role after logging is set up."""
    for name in ("faust", "mode", "aiokafka"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_OncePerMinute())
