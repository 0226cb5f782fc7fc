"""What a node knows of its own work: attempts by kind and how they ended, run times, and the last ten minutes.

Fed by the worker agent in the event loop; read by the stats page and by Prometheus. Bounded: by the number of kinds
that the node runs, by the run times kept of each, and by the length of the history.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from agents.execution.job import AttemptEnd, Job

BUCKET_S = 5
BUCKETS = 120  # ten minutes
_TIMES = 1000  # run times kept of each kind: percentiles are of the last so many
_SECONDS = (0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300, 1800, 3600)


@dataclass(slots=True)
class KindStats:
    """One kind's attempts since the node began."""

    done: int = 0
    failed: int = 0  # attempts without a result
    retried: int = 0  # attempts after the first
    causes: dict[str, int] = field(default_factory=dict)
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_TIMES))  # run times of those that are done

    def percentile(self, fraction: float) -> float | None:
        """Of the run times, by nearest rank, in seconds; None before the first."""
        if not self.seconds:
            return None
        ordered: Sequence[float] = sorted(self.seconds)
        return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)]


@dataclass(slots=True)
class Bucket:
    """Five seconds of the node's history."""

    at: int  # seconds since the epoch, a multiple of BUCKET_S
    done: int = 0
    failed: int = 0
    used: float = 0.0  # slots, the mean over the bucket
    waiting: int | None = None  # tasks in both topics, all nodes; None = not known
    samples: int = 0


class NodeStats:
    """One node's. `clock` gives seconds since the epoch."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.kinds: dict[str, KindStats] = {}
        self._buckets: deque[Bucket] = deque(maxlen=BUCKETS)
        self.registry = CollectorRegistry()
        r = self.registry
        self._attempts = Counter("headrace_attempts", "Attempts by how they ended", ["name", "end"], registry=r)
        self._run_seconds = Histogram(
            "headrace_attempt_seconds", "Run time of an attempt", ["name"], buckets=_SECONDS, registry=r
        )
        self._undecodable = Counter(
            "headrace_worker_undecodable", "Records that the node has passed over", ["topic"], registry=r
        )
        self.slots = Gauge("headrace_slots", "Slots of the node, by what they do", ["state"], registry=r)
        self.waiting = Gauge("headrace_waiting_tasks", "Tasks not yet claimed, all nodes", ["topic"], registry=r)
        self.ready = Gauge("headrace_worker_ready", "1 when the node can do its work", registry=r)

    def ended(self, job: Job, end: AttemptEnd) -> None:
        """Counts one attempt."""
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

    def passed_over(self, topic: str) -> None:
        """Counts a record that is not what its topic holds."""
        self._undecodable.labels(topic).inc()

    def sample(self, used: int, total: int, waiting: dict[str, int] | None) -> None:
        """Notes how many slots are in use and how many tasks wait, by topic. Called about once a second."""
        bucket = self._bucket()
        bucket.used = (bucket.used * bucket.samples + used) / (bucket.samples + 1)
        bucket.samples += 1
        bucket.waiting = sum(waiting.values()) if waiting is not None else None
        self.slots.labels("used").set(used)
        self.slots.labels("free").set(total - used)
        for topic, count in (waiting or {}).items():
            self.waiting.labels(topic).set(count)

    def history(self) -> list[Bucket]:
        """The last ten minutes, oldest first, without a gap; the last bucket is still open."""
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
