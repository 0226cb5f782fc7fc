"""What a sink is. One strategy a file, all of them listed in `spark_analytics.sinks`."""

from typing import Protocol

from pyspark.sql import DataFrame


class Sink(Protocol):
    """Where counts go. Every method may be repeated, and repeating changes nothing."""

    def prepare(self) -> None:
        """Makes what it needs; Retryable while it is away."""

    def write(self, batch: DataFrame, batch_id: int) -> None:
        """Writes rows of KEY with absolute counts; smaller counts than those already there change nothing.

        Retryable when it is away: the same batch is then written again.
        """

    def wrote(self, checkpoint: str, batch_id: int, late: int) -> None:
        """Notes that a batch is whole, and how many events came too late for it."""

    def knows(self, checkpoint: str) -> bool:
        """Whether batches of that checkpoint are in it: if not, it must be counted from the beginning."""

    def check(self) -> str | None:
        """None, or in words why it cannot be written to now."""
