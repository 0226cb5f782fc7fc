"""What people should know of the log although a role can work: partitions that open transactions block, and damaged
batches that were passed over. For `/readyz`'s notes and the metrics of every role, which is to have prometheus-client.
"""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from headrace.kafka.client import Kafka
from headrace.kafka.open_transactions import OpenTransactions


class LogNotes:
    """`start` it, then `close` it; `notes` may be called at any time."""

    def __init__(self, kafka: Kafka, topics: Sequence[str], registry: CollectorRegistry) -> None:
        """`topics` come without the installation's prefix; `registry` gets the two metrics."""
        self._open_transactions, self._damaged = OpenTransactions(kafka, topics), kafka.damaged_batches
        registry.register(self)  # all it needs is `collect`

    def start(self) -> None:
        self._open_transactions.start()

    def close(self) -> None:
        self._open_transactions.close()

    def notes(self) -> list[str]:
        """A sentence for each."""
        return [*self._open_transactions.notes(), *self._damaged.notes()]

    def collect(self) -> list[Metric]:
        """For Prometheus's registry."""
        return [
            GaugeMetricFamily(
                "headrace_blocked_partitions",
                "Partitions that an open transaction keeps from being read further",
                value=self._open_transactions.count(),
            ),
            CounterMetricFamily(
                "headrace_damaged_batches",
                "Batches that cannot be decoded and were passed over",
                value=self._damaged.count,
            ),
        ]
