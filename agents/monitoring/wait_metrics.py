"""What stands still on a node, for `/metrics`: how many tasks wait, and for how long the first of them has.

Registered by the worker node's parts. Asked at each scrape; a series is there only while something waits.
"""

import time
from collections.abc import Callable, Iterable, Sequence

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from headrace.contract.cluster import Wait


class WaitMetrics(Collector):
    """`waits` is called in the thread that asks; `clock` gives seconds since the epoch."""

    def __init__(self, waits: Callable[[], Sequence[Wait]], clock: Callable[[], float] = time.time) -> None:
        self._waits, self._clock = waits, clock

    def collect(self) -> Iterable[GaugeMetricFamily]:
        labels = ("why", "name")
        tasks = GaugeMetricFamily(
            "headrace_worker_standing_still",
            "Tasks that wait for another node (`head`: with all behind it, `aside`: alone), or to run `alone`, by kind",
            labels=labels,
        )
        seconds = GaugeMetricFamily(
            "headrace_worker_standing_still_seconds", "For how long the first of them has waited", labels=labels
        )
        counts: dict[tuple[str, str], int] = {}
        since: dict[tuple[str, str], int] = {}
        for wait in self._waits():
            key = wait.why, wait.name
            counts[key] = counts.get(key, 0) + wait.count
            since[key] = min(since.get(key, wait.since_ms), wait.since_ms)
        for key, count in counts.items():
            tasks.add_metric(key, count)
            seconds.add_metric(key, max(0.0, self._clock() - since[key] / 1000))
        return tasks, seconds
