"""What the statistics say of themselves to Prometheus; the audit's findings among them."""

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest


class Metrics:
    """One set a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.ready = Gauge("headrace_analytics_ready", "1 when the role can do its work", registry=r)
        self._batches = Counter("headrace_analytics_batches", "Micro-batches with events", registry=r)
        self._events = Counter("headrace_analytics_events", "Lifecycle records read", registry=r)
        self._late = Counter(
            "headrace_analytics_late_events", "Events later than the watermark, not counted", registry=r
        )
        self._seconds = Gauge("headrace_analytics_batch_seconds", "What the last micro-batch took", registry=r)
        self.lost = Gauge("headrace_audit_lost", "Tasks that the audit misses", registry=r)
        self.repeated = Counter("headrace_audit_repeated", "Events that the audit has seen more than once", registry=r)
        self.audited = Gauge("headrace_audit_timestamp_seconds", "When the last audit ended", registry=r)

    def batch(self, events: int, late: int, seconds: float) -> None:
        self._batches.inc()
        self._events.inc(events)
        self._late.inc(late)
        self._seconds.set(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)
