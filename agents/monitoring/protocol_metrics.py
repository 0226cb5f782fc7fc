"""Counters of what the node's intake, reaper, trimmer and receiver have done, for `/metrics`.

The worker node makes one and hands it to those parts, which count from their own threads.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge


class ProtocolMetrics:
    """Counts since the node's start. Without a `registry` of the node they are in one of their own."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        r = self.registry = registry or CollectorRegistry()
        self.repeated_tasks = Counter(
            "headrace_worker_repeated_tasks", "Records that the intake has dropped as repeats", registry=r
        )
        self.void_claims = Counter(
            "headrace_worker_void_claims", "Claims that the intake has taken back unstarted", registry=r
        )
        self.reaped_tasks = Counter(
            "headrace_worker_reaped_tasks", "Tasks of dead boots that the reaper has sent again or ended", registry=r
        )
        self.journal_records = Counter(
            "headrace_worker_journal_records", "Records of the journal that the reaper has read", registry=r
        )
        self.unsaved_checkpoints = Gauge(
            "headrace_worker_unsaved_checkpoints",
            "Own partitions of the journal whose newest checkpoint is too large for Kafka or was refused: "
            "a takeover reads more",
            registry=r,
        )
        self.trimmed_records = Counter(
            "headrace_worker_trimmed_records",
            "Records of the task topics and of tasks.control that the trimmer has deleted",
            registry=r,
        )
        self.received_tasks = Counter(
            "headrace_worker_received_tasks", "Tasks that the receiver has announced", registry=r
        )
        self.received_repeats = Counter(
            "headrace_worker_received_repeats", "Tasks that the receiver found announced already", registry=r
        )
        self.unaccounted = Counter(
            "headrace_worker_unaccounted",
            "Own claims that no part of the node knows, and attempts without a claim",
            ["what"],
            registry=r,
        )
