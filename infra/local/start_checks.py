"""What `up` checks before it starts anything: settings that a role would refuse a minute later.

Called by `infra.local.up`. UsageError names the setting and what to give.
"""

from dataclasses import replace

from headrace.errors import UsageError
from headrace.kafka.client import Kafka
from headrace.process.host_check import is_loopback
from headrace.settings import Settings, parse_address
from headrace.storage.mysql import Database
from headrace.storage.results_root import open_directory

_OTHER_SINKS = ("console", "memory")  # of the statistics, beside a database


def check_settings(settings: Settings) -> None:
    """UsageError for the first setting that cannot work, whatever listens where."""
    if settings.api_keys:
        raise UsageError("HEADRACE_API_KEYS is set, but this release does not support API keys: unset it")
    for name in ("http", "stats_http", "storekeeper_http", "analytics_http"):
        address: str = getattr(settings, name)
        host, port = parse_address(address)
        if not settings.insecure and not is_loopback(host):
            raise UsageError(
                f"HEADRACE_{name.upper()} is {address}, which other machines can reach: set it to a loopback address "
                f"such as 127.0.0.1:{port}, or set HEADRACE_INSECURE=1 to let anyone who can reach it use it"
            )
    if settings.database and settings.database.partition(":")[0] not in _OTHER_SINKS:
        Database.parse(settings.database)
    Kafka(replace(settings, kafka=settings.kafka or settings.embedded_kafka), "headrace-up")  # checks its options
    open_directory(settings.results_root).close()
