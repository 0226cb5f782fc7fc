"""What our Faust apps have in common: their settings, Kafka's security, quiet logs, start and stop.

The worker's and the storekeeper's apps are made here and run in the role's own event loop; the role handles signals.
UsageError when a security option has no counterpart in aiokafka, Faust's Kafka client.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import faust
from faust.auth import Credentials, GSSAPICredentials, SASLCredentials, SSLCredentials
from faust.tables import TableManager

from headrace.errors import UsageError
from headrace.kafka.client import Kafka
from headrace.process.throttled_log import Throttle
from headrace.settings import Settings, parse_address

from .lenient_headers import install_lenient_reader
from .web_guard import guard

SESSION_S = 10.0  # how long a dead node's partitions wait until another node gets them
# A Faust worker that exceeds its poll interval leaves the group for good, so it must not: health checks find a hang.
_NEVER_S = 1_000_000.0


class _NoTables(TableManager):
    """Our apps have no tables to recover; the original sleeps for a second before it finds that out."""

    async def on_start(self) -> None:
        if not self.should_stop:
            await self._update_channels()
            await self.recovery.start()


_NoTables.logger = logging.getLogger(TableManager.__module__)  # the level set for the original applies


class AppWithoutConsumer(faust.App):
    """An app whose agents are fed only over channels: it runs no Kafka client, and no thread for one."""

    class BootStrategy(faust.app.BootStrategy):
        enable_kafka = False

    async def _wait_for_table_recovery_completed(self) -> bool:
        return False  # tables are recovered; the original would wait for a consumer


def make_app(
    name: str,
    settings: Settings,
    kafka: Kafka,
    http: str,
    folder: Path,
    app: type[faust.App] = faust.App,
    **options: Any,
) -> faust.App:
    """An app in the group `name` (with the installation's prefix) that serves only our own pages at `http` (host:port).

    `folder` belongs to the app and is created here. `app` is its class. `options` override Faust's settings. UsageError
    for a security option that Faust's client lacks, and for an `http` that is open to the network without consent.
    """
    install_lenient_reader()
    host, port = parse_address(http)
    datadir = folder / "faust" / name
    datadir.mkdir(parents=True, exist_ok=True)  # Faust itself creates the last component only
    made = app(
        kafka.group(name),
        **{
            "broker": ";".join(f"kafka://{server.strip()}" for server in kafka.bootstrap.split(",")),
            "broker_credentials": credentials(kafka.security),
            "broker_session_timeout": SESSION_S,
            "broker_heartbeat_interval": 1.0,
            "broker_max_poll_interval": _NEVER_S,
            "stream_wait_empty": False,  # waiting for running agents would stop the whole group at each rebalance
            "topic_disable_leader": True,
            "table_standby_replicas": 0,  # with the round-robin assignor: no tables, nothing to copartition
            "TableManager": _NoTables,
            "datadir": str(datadir),
            "autodiscover": False,
            "web_enabled": True,
            "web_bind": host,
            "web_port": port,
            "web_host": host,
            "web_router_enabled": False,
            "web_tables_enabled": False,
            "web_graph_enabled": False,
            "web_stats_enabled": False,
            "web_metrics_enabled": False,
            **options,
        },
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


def member_id(app: faust.App) -> str:
    """The member id of the app's consumer in its group; "" outside the group. Faust has no public name for it."""
    return str(app.consumer._thread._consumer._coordinator.member_id or "")  # type: ignore[attr-defined]


def credentials(security: Mapping[str, str]) -> Credentials | None:
    """librdkafka's security options as Faust's credentials; None for a cluster without security.

    UsageError for an option that aiokafka lacks, and for certificates that cannot be read.
    """
    protocol = security.get("security.protocol", "plaintext").upper()
    if protocol not in {"PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"}:
        raise UsageError(f"security.protocol={protocol}: give PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL")
    _check_known(security)
    context = _ssl_context(security) if protocol.endswith("SSL") else None
    if protocol == "SSL":
        return SSLCredentials(context)
    if protocol == "PLAINTEXT":
        return None
    mechanism = security.get("sasl.mechanism", security.get("sasl.mechanisms", "GSSAPI")).upper()
    if mechanism == "GSSAPI":
        service = security.get("sasl.kerberos.service.name", "kafka")
        return GSSAPICredentials(kerberos_service_name=service, ssl_context=context)
    if mechanism not in {"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"}:
        raise UsageError(f"sasl.mechanism={mechanism}: give PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or GSSAPI")
    return SASLCredentials(
        username=security.get("sasl.username"),
        password=security.get("sasl.password"),
        ssl_context=context,
        mechanism=mechanism,
    )


_KNOWN = {
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.username",
    "sasl.password",
    "sasl.kerberos.service.name",
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.endpoint.identification.algorithm",
}


def _check_known(security: Mapping[str, str]) -> None:
    """Refuses options that librdkafka would follow and aiokafka would ignore: a security hole that nobody sees."""
    unknown = sorted(k for k in security if k.startswith(("ssl.", "sasl.")) and k not in _KNOWN)
    if unknown:
        raise UsageError(
            f"HEADRACE_KAFKA_SECURITY: aiokafka lacks {', '.join(unknown)}: use {', '.join(sorted(_KNOWN))}"
        )


def _ssl_context(security: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=security.get("ssl.ca.location"), cadata=security.get("ssl.ca.pem"))
        if certificate := security.get("ssl.certificate.location"):
            context.load_cert_chain(certificate, security.get("ssl.key.location"), security.get("ssl.key.password"))
    except (OSError, ssl.SSLError) as e:
        raise UsageError(f"HEADRACE_KAFKA_SECURITY: the certificates cannot be read: {e}") from None
    context.check_hostname = security.get("ssl.endpoint.identification.algorithm", "https").lower() != "none"
    if security.get("enable.ssl.certificate.verification", "true").lower() == "false":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


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
