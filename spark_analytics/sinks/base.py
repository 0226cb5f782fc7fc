"""The interface of a sink. Each sink has a file of its own; `spark_analytics.sinks` lists them all."""

from typing import Protocol

from pyspark.sql import DataFrame


class Sink(Protocol):
    """Where counts are written. Every method is idempotent."""

    def prepare(self) -> None:
        """Creates tables and the like; Retryable while the sink is away."""

    def write(self, batch: DataFrame, batch_id: int) -> None:
        """Writes rows of `counts.KEY` with absolute counts; a count never replaces a larger one.

        Retryable while the sink is away: the caller then writes the same batch again.
        """

    def record_batch(self, checkpoint: str, batch_id: int, late: int) -> None:
        """Notes that a batch is complete, and how many events came too late for it; Retryable while away."""

    def has_checkpoint(self, checkpoint: str) -> bool:
        """Whether it holds batches of that checkpoint; if not, the query must count from the beginning."""

    def check(self) -> str | None:
        """None, or the reason why it cannot be written to now. Answers within some seconds."""
