"""What is counted: pure functions from events to rows with absolute counts, for streams and for tables alike.

`distinct` removes repeats, `measures` turns each event into what it counts for, `totals` adds up. The query chains
them; tests run them without Kafka. A row's count is that of its whole minute or hour, so that writing it twice changes
nothing.
"""

import math

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from headrace.contract.duration_bins import GAMMA, MOST_MS

WATERMARK = "10 minutes"  # PROTOCOL: at least that; repeats and late events are told within it
STATE_WINDOW = "1 hour"  # counts leave the state once the watermark has passed their hour
KEY = ("measure", "bucket", "event", "reason", "name", "node", "bin")


def distinct(events: DataFrame) -> DataFrame:
    """The first of each event: by id, and by attempt for started. Later than WATERMARK is dropped, and reported.

    The partition, which is the same for all records of an id, stands first in the key: records come a partition at a
    time, so what the state looks up lies close together.

    Adds `starts` (0 or 1) and `first` (0 or 1): a second row, which counts no start, asks in the place of attempt 1
    of a later attempt whether the task has started before. A node may die between claim and announcement.
    """
    attempt, place = F.col("attempt"), F.col("place")  # -1: attempt 1's, asked for by a later one
    asks = (attempt > 1) & F.col("young")
    rows = events.withColumn("place", F.explode(F.when(asks, F.array(attempt, F.lit(-1))).otherwise(F.array(attempt))))
    unique = (
        rows.withColumn("of", F.abs(place))
        .drop("attempt", "young")
        .withWatermark("at", WATERMARK)
        .dropDuplicatesWithinWatermark(["partition", "id", "event", "of"])
    )
    return unique.withColumns(
        {"starts": F.when(place < 0, 0).otherwise(1), "first": F.when(F.col("of") == 1, 1).otherwise(0)}
    )


def measures(events: DataFrame) -> DataFrame:
    """A row for each thing that an event counts for: its minute, and its hour's queue wait and run time.

    Columns KEY, at, and count, tasks, bytes. `measure` is events, queued or duration; `tasks`: tasks that started.
    """
    counted, measure = F.col("measure") == "events", F.col("measure")
    is_timed = (F.col("event") == "completed") & F.col("duration_ms").isNotNull() & F.col("queued_ms").isNotNull()
    every = F.when(is_timed, _texts("events", "queued", "duration")).otherwise(_texts("events"))
    ms = F.when(measure == "queued", F.col("queued_ms")).otherwise(F.col("duration_ms"))
    rows = events.withColumn("measure", F.explode(every)).withColumn("ms", F.least(ms, F.lit(MOST_MS)))
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


def statistics(events: DataFrame) -> DataFrame:
    """The whole of it, as the query runs it."""
    return totals(measures(distinct(events)))


def _texts(*texts: str) -> Column:
    return F.array(*map(F.lit, texts))


def _bin(ms: str) -> Column:
    """headrace.contract.duration_bins.bin_of, in Spark's words, from 1 ms to MOST_MS."""
    return 1 + F.ceil(F.log(ms) / math.log(GAMMA) - 1e-9)
