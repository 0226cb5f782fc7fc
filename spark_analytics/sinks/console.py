"""Counts as lines of JSON on standard output: `HEADRACE_DATABASE=console:` shows what a database would get."""

import sys

from pyspark.sql import DataFrame
from pyspark.sql import functions as F


class ConsoleSink:
    """Prints each row with its batch, and keeps nothing."""

    def __init__(self, _url: str = "console:") -> None:
        self._late: set[tuple[str, int]] = set()

    def prepare(self) -> None:
        pass

    def write(self, batch: DataFrame, batch_id: int) -> None:
        for (line,) in batch.select(F.to_json(F.struct(F.lit(batch_id).alias("batch"), "*"))).collect():
            print(line, flush=True)

    def record_batch(self, checkpoint: str, batch_id: int, late: int) -> None:
        if late and (checkpoint, batch_id) not in self._late:
            self._late.add((checkpoint, batch_id))
            print(f'{{"batch":{batch_id},"late":{late}}}', file=sys.stdout, flush=True)

    def has_checkpoint(self, checkpoint: str) -> bool:
        return True

    def check(self) -> str | None:
        return None
