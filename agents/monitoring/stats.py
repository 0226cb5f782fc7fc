"""A node's figures about its own work: attempts by kind and by how they ended, run times, and the last ten minutes.

The worker agent counts attempts in the event loop; the stats page and Prometheus read them. Memory is bounded by the
number of kinds, by the run times kept of each, and by the length of the history.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ..execution.job import AttemptEnd, Job

BUCKET_S = 5
BUCKETS = 120  # ten minutes
_RUN_TIMES = 1000  # kept of each kind, for the percentiles
_BOUNDS_S = (0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300, 1800, 3600)


@dataclass(slots=True)
class KindStats:
    """One kind's attempts since the node's start."""

    done: int = 0
    failed: int = 0  # attempts that ended without a result
    retried: int = 0  # attempts after the first
    causes: dict[str, int] = field(default_factory=dict)
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_RUN_TIMES))  # run times of the done ones

    def percentile(self, fraction: float) -> float | None:
        """Percentile of the run times by nearest rank, in seconds; None before the first. `fraction` is from 0 to 1."""
        if not self.seconds:
            return None
        ordered: Sequence[float] = sorted(self.seconds)
        return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)]


@dataclass(slots=True)
class Bucket:
    """BUCKET_S seconds of the node's history."""

    at: int  # seconds since the epoch, a multiple of BUCKET_S
    done: int = 0
    failed: int = 0
    used: float = 0.0  # slots in use, the mean over the bucket
    waiting: int | None = None  # tasks in both topics, for all nodes; None = unknown
    samples: int = 0


class NodeStats:
    """One node's figures. `clock` gives seconds since the epoch; `registry` holds the Prometheus metrics."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.kinds: dict[str, KindStats] = {}
        self._buckets: deque[Bucket] = deque(maxlen=BUCKETS)
        self.registry = CollectorRegistry()
        r = self.registry
        self._attempts = Counter("headrace_attempts", "Attempts by how they ended", ["name", "end"], registry=r)
        self._run_seconds = Histogram(
            "headrace_attempt_seconds", "Run time of an attempt", ["name"], buckets=_BOUNDS_S, registry=r
        )
        self._undecodable = Counter(
            "headrace_worker_undecodable", "Records that the node has passed over", ["topic"], registry=r
        )
        self.slots = Gauge("headrace_slots", "Slots of the node, by what they do", ["state"], registry=r)
        self.waiting = Gauge("headrace_waiting_tasks", "Tasks not yet claimed, all nodes", ["topic"], registry=r)
        self.ready = Gauge("headrace_worker_ready", "1 when the node can do its work", registry=r)

    def count_attempt(self, job: Job, end: AttemptEnd) -> None:
        """Counts one attempt that has begun and ended."""
        name = job.submission.name
        kind = self.kinds.setdefault(name, KindStats())
        seconds = max(0, end.ended_ms - end.started_ms) / 1000
        bucket = self._bucket()
        if job.task.attempt > 1:
            kind.retried += 1
        if end.cause is None:
            kind.done += 1
            bucket.done += 1
            kind.seconds.append(seconds)
        else:
            kind.failed += 1
            bucket.failed += 1
            kind.causes[end.cause] = kind.causes.get(end.cause, 0) + 1
        self._attempts.labels(name, end.cause or "completed").inc()
        self._run_seconds.labels(name).observe(seconds)

    def count_undecodable(self, topic: str) -> None:
        """Counts a record that could not be decoded and was skipped."""
        self._undecodable.labels(topic).inc()

    def sample(self, used: int, total: int, waiting: dict[str, int] | None) -> None:
        """Records how many slots are in use and, by topic, how many tasks wait. Called about once a second.

        `waiting` is None while Kafka has not said.
        """
        bucket = self._bucket()
        bucket.used = (bucket.used * bucket.samples + used) / (bucket.samples + 1)
        bucket.samples += 1
        bucket.waiting = sum(waiting.values()) if waiting is not None else None
        self.slots.labels("used").set(used)
        self.slots.labels("free").set(total - used)
        for topic, count in (waiting or {}).items():
            self.waiting.labels(topic).set(count)

    def history(self) -> list[Bucket]:
        """The last ten minutes, oldest first, without gaps; the last bucket is still filling."""
        self._bucket()
        return list(self._buckets)

    def _bucket(self) -> Bucket:
        at = int(self._clock()) // BUCKET_S * BUCKET_S
        if not self._buckets or at - self._buckets[-1].at > BUCKET_S * BUCKETS:
            self._buckets.clear()
            self._buckets.append(Bucket(at))
        while self._buckets[-1].at < at:
            self._buckets.append(Bucket(self._buckets[-1].at + BUCKET_S))
        return self._buckets[-1]
