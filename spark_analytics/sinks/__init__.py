"""All sinks in one table; the scheme of `HEADRACE_DATABASE` chooses one. Imported by `main` and tests."""

from collections.abc import Callable, Mapping

from headrace.errors import UsageError

from .base import Sink
from .console import ConsoleSink
from .memory import MemorySink
from .mysql import MySqlSink

SINKS: Mapping[str, Callable[[str], Sink]] = {"mysql": MySqlSink, "console": ConsoleSink, "memory": MemorySink}


def sink_of(url: str) -> Sink:
    """The sink for a URL; UsageError when no sink has its scheme, or the URL is malformed."""
    scheme = url.partition(":")[0]
    if scheme not in SINKS:
        raise UsageError(
            "HEADRACE_DATABASE must name a sink for the statistics: mysql://user:password@host:port/name, "
            "or console: to print them"
        )
    return SINKS[scheme](url)
