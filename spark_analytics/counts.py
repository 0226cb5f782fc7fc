"""What is counted: pure functions from events to rows with absolute counts, for streams and for tables alike.

`deduplication.drop_repeats` removes repeats, `measure_rows` makes a row of each thing that an event counts for, and
`totals` adds the rows up; `count_events` is all three, as `query` runs them. Tests run them without Kafka. A row holds
the count of its whole minute or hour, so writing it twice changes nothing.
"""

import math

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from headrace.contract.duration_bins import GAMMA, MAX_DURATION_MS

from .deduplication import drop_repeats

STATE_WINDOW = "1 hour"  # counts leave the state once the watermark has passed their hour
KEY = ("measure", "bucket", "event", "reason", "name", "node", "bin")


def count_events(events: DataFrame) -> DataFrame:
    """The columns of `decode_events` to KEY with count, tasks and bytes: repeats dropped, measured, added up."""
    return totals(measure_rows(drop_repeats(events)))


def measure_rows(events: DataFrame) -> DataFrame:
    """One row for each thing that an event counts for: its minute, and its hour's queue wait and run time.

    Columns: KEY, at, count, tasks (that started), bytes. `measure` is events, queued or duration; the bins of the
    latter two are those of `headrace.contract.duration_bins`.
    """
    counted, measure = F.col("measure") == "events", F.col("measure")
    is_timed = (F.col("event") == "completed") & F.col("duration_ms").isNotNull() & F.col("queued_ms").isNotNull()
    every = F.when(is_timed, _texts("events", "queued", "duration")).otherwise(_texts("events"))
    ms = F.when(measure == "queued", F.col("queued_ms")).otherwise(F.col("duration_ms"))
    rows = events.withColumn("measure", F.explode(every)).withColumn("ms", F.least(ms, F.lit(MAX_DURATION_MS)))
    return rows.select(
        "at",
        "measure",
        F.when(counted, F.date_trunc("minute", "at")).otherwise(F.date_trunc("hour", "at")).alias("bucket"),
        "event",
        F.when(counted, F.col("reason")).otherwise("").alias("reason"),
        "name",
        F.when(counted, F.col("node")).otherwise("").alias("node"),
        F.when(counted | (F.col("ms") <= 0), 0).otherwise(_bin("ms")).cast("int").alias("bin"),
        F.col("starts").alias("count"),
        F.col("first").alias("tasks"),
        F.when(counted, F.coalesce("bytes", F.lit(0))).otherwise(0).alias("bytes"),
    )


def totals(rows: DataFrame) -> DataFrame:
    """KEY with the sums of count, tasks and bytes."""
    summed = [F.sum(c).cast("bigint").alias(c) for c in ("count", "tasks", "bytes")]
    return rows.groupBy(F.window("at", STATE_WINDOW), *KEY).agg(*summed).drop("window")


def _texts(*texts: str) -> Column:
    return F.array(*map(F.lit, texts))


def _bin(ms: str) -> Column:
    """`headrace.contract.duration_bins.bin_of` as a Spark expression, from 1 ms to MAX_DURATION_MS."""
    return 1 + F.ceil(F.log(ms) / math.log(GAMMA) - 1e-9)
