"""Counts in a dictionary, for tests of the query and for training runs."""

from pyspark.sql import DataFrame

from ..counts import KEY

Values = tuple[int, int, int]


class MemorySink:
    """`rows`: KEY -> (count, tasks, bytes). `batches`: (checkpoint, batch id) -> late events."""

    def __init__(self, _url: str = "memory:") -> None:
        self.rows: dict[tuple[object, ...], Values] = {}
        self.batches: dict[tuple[str, int], int] = {}

    def prepare(self) -> None:
        pass

    def write(self, batch: DataFrame, batch_id: int) -> None:
        for row in batch.collect():
            key = tuple(row[c] for c in KEY)
            old = self.rows.get(key, (0, 0, 0))
            self.rows[key] = max(row["count"], old[0]), max(row["tasks"], old[1]), max(row["bytes"], old[2])

    def record_batch(self, checkpoint: str, batch_id: int, late: int) -> None:
        self.batches[checkpoint, batch_id] = late

    def has_checkpoint(self, checkpoint: str) -> bool:
        return any(c == checkpoint for c, _ in self.batches)

    def check(self) -> str | None:
        return None
