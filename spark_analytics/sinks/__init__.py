"""All sinks, in one list: the scheme of `HEADRACE_DATABASE` chooses."""

from collections.abc import Callable, Mapping

from headrace.errors import UsageError
from spark_analytics.sinks.base import Sink
from spark_analytics.sinks.console import ConsoleSink
from spark_analytics.sinks.memory import MemorySink
from spark_analytics.sinks.mysql import MySqlSink

SINKS: Mapping[str, Callable[[str], Sink]] = {"mysql": MySqlSink, "console": ConsoleSink, "memory": MemorySink}


def sink_of(url: str) -> Sink:
    """The sink that a URL names; UsageError when there is none."""
    scheme = url.partition(":")[0]
    if scheme not in SINKS:
        raise UsageError(
            "HEADRACE_DATABASE must say where the statistics go: mysql://user:password@host:port/name, "
            "or console: to print them"
        )
    return SINKS[scheme](url)
