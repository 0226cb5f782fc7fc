"""How often a file that is made of the log was made anew, and why: for the log, `/readyz` and `/metrics`.

Kept by each role for its SQLite file (headrace.storage.sqlite). It outlives the file's connections, and is safe from
any thread. Nothing here fails.
"""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector


class Rebuilds(Collector):
    """Of one file. Register it at the role's metrics, and `check` at its health."""

    def __init__(self, file: str) -> None:
        """`file` names the file for people: "status view"."""
        self._file = file
        self.count = 0
        self.why: str | None = None  # what was wrong with it, while the log is read again

    def begin(self, why: str) -> None:
        """The file was found unusable, and is made anew."""
        self.count += 1
        self.why = why

    def end(self) -> None:
        """The log has been read into it to its end."""
        self.why = None

    def check(self) -> str | None:
        """For health: None, or that the file is being made anew."""
        why = self.why
        return None if why is None else f"its file could not be used ({why}): it is being made anew from Kafka's log"

    def collect(self) -> Iterator[CounterMetricFamily]:
        """For Prometheus."""
        family = CounterMetricFamily(
            "headrace_file_rebuilds", "Files that were damaged and have been made anew from the log", labels=["file"]
        )
        family.add_metric([self._file], self.count)
        yield family
