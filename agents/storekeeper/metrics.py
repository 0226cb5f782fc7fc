"""The storekeeper's metrics, for Prometheus. One set per process; made by the role, updated by the arbiter."""

import time
from contextlib import AbstractContextManager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

from headrace.contract.outcome import Outcome
from headrace.contract.records import Record


class Metrics:
    """Counters since the process began. Times are seconds, sizes bytes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self._terminal_events = Counter(
            "headrace_terminal_events", "terminal events sent", ["status", "reason"], registry=r
        )
        self._stored_bytes = Counter("headrace_result_bytes", "bytes of results stored", registry=r)
        self.passed_over = Counter(
            "headrace_outcomes_passed_over", "outcomes of tasks that had already ended", registry=r
        )
        self.trimmed = Counter("headrace_outcomes_trimmed", "settled outcomes deleted from results", registry=r)
        self.undecodable = Counter(
            "headrace_outcomes_undecodable", "records on results that are not outcomes", registry=r
        )
        self.open_chunk_sets = Gauge(
            "headrace_chunked_results_open", "results in chunks that are not whole yet", registry=r
        )
        self.batch_seconds = Histogram(
            "headrace_storekeeper_batch_seconds",
            "from a batch of outcomes to its acknowledged events",
            registry=r,
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5, 30),
        )
        self._stages = Summary(
            "headrace_storekeeper_stage_seconds",
            "where the time goes: reach (from an outcome in the log to the arbiter), and a batch's file, event, index",
            ["stage"],
            registry=r,
        )
        self.lag = Gauge("headrace_storekeeper_lag", "outcomes not yet handled", registry=r)

    def time_stage(self, name: str) -> AbstractContextManager[Any]:
        """Times its block as that stage of a batch: file, event or index."""
        return self._stages.labels(name).time()

    def observe_reach(self, record: Record) -> None:
        """Records how long ago, by its timestamp, this record was appended: the arbiter begins with it now."""
        self._stages.labels("reach").observe(max(0.0, time.time() - record.timestamp_ms / 1000))

    def count_terminal_event(self, outcome: Outcome, size: int) -> None:
        """One terminal event was acknowledged. `size`: bytes of the stored result, 0 if there is none."""
        self._terminal_events.labels(outcome.outcome, outcome.reason or "").inc()
        self._stored_bytes.inc(size)
