"""The gateway's metrics for GET /metrics. Each gateway has its own registry, so tests can run two in one process."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """All metrics of one gateway; each part counts its own events."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.submitted = Counter(
            "headrace_gateway_submissions", "Submissions by how they were answered", ["answer"], registry=r
        )
        self.submit_seconds = Histogram(
            "headrace_gateway_submit_seconds",
            "From a submission's arrival to Kafka's acknowledgement",
            buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5),
            registry=r,
        )
        self.folded = Counter("headrace_view_records", "Records that the status view has read", ["topic"], registry=r)
        self.undecodable = Counter(
            "headrace_view_undecodable", "Records that the status view has passed over", ["topic"], registry=r
        )
        self.conflicts = Counter(
            "headrace_view_two_terminals", "Tasks seen with two different terminal events: must stay 0", registry=r
        )
        self.lag = Gauge("headrace_view_lag_records", "Records that the status view has not read yet", registry=r)
        self.listeners = Gauge("headrace_gateway_listeners", "Open event streams", registry=r)
        self.ready = Gauge("headrace_gateway_ready", "1 when the gateway can do its work", registry=r)

    def text(self) -> bytes:
        """Prometheus's text format."""
        return generate_latest(self.registry)
