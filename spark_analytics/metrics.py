"""The Prometheus metrics of query and audit; `health_http` serves them."""

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from headrace.storage.rebuilds import Rebuilds


class Metrics:
    """One set for each process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.ready = Gauge("headrace_analytics_ready", "1 when the role can do its work", registry=r)
        self._batches = Counter("headrace_analytics_batches", "Micro-batches with events", registry=r)
        self._events = Counter("headrace_analytics_events", "Lifecycle records read", registry=r)
        self._late = Counter(
            "headrace_analytics_late_events", "Events later than the watermark, not counted", registry=r
        )
        self._seconds = Gauge("headrace_analytics_batch_seconds", "Time that the last micro-batch took", registry=r)
        self.lost = Gauge("headrace_audit_lost", "Tasks that the last audit found lost", registry=r)
        self.repeated = Counter("headrace_audit_repeated", "Events that the audit saw more than once", registry=r)
        self.resubmitted = Counter(
            "headrace_audit_resubmitted", "Tasks that the audit saw submitted more than once", registry=r
        )
        self._passed_over = Counter(
            "headrace_audit_passed_over",
            "Records that the audit passed over because they are not what their topic holds",
            ["topic"],
            registry=r,
        )
        self._rebuilds: Rebuilds | None = None
        self.audited = Gauge("headrace_audit_timestamp_seconds", "When the last audit ended", registry=r)

    def add_batch(self, events: int, late: int, seconds: float) -> None:
        """Counts one micro-batch that had events."""
        self._batches.inc()
        self._events.inc(events)
        self._late.inc(late)
        self._seconds.set(seconds)

    def count_passed_over(self, topic: str) -> None:
        """Counts one record that the audit could not use."""
        self._passed_over.labels(topic).inc()

    def follow_rebuilds(self, rebuilds: Rebuilds) -> None:
        """Shows how often the audit's file was made anew; another audit takes the place of the one before."""
        if self._rebuilds is not None:
            self.registry.unregister(self._rebuilds)
            rebuilds.count += self._rebuilds.count
        self._rebuilds = rebuilds
        self.registry.register(rebuilds)

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self.registry)
