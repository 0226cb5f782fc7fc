"""What is counted: pure functions from events to rows with absolute counts, for streams and for tables alike.

`distinct` removes repeats, `measures` turns each event into what it counts for, `totals` adds up. The query chains
them; tests run them without Kafka. A row's count is that of its whole minute or hour, so that writing it twice changes
nothing.
"""

import math

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from headrace.durations import GAMMA, MOST_MS

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
    started = F.col("event") == "started"
    rows = events.withColumn("row", F.explode(_rows(started)))
    rows = rows.withColumns({c: F.col(f"row.{c}") for c in ("of", "starts", "first")}).drop("row")
    return rows.withWatermark("at", WATERMARK).dropDuplicatesWithinWatermark(["partition", "id", "event", "of"])


def _rows(started: Column) -> Column:
    def row(of: Column, starts: int, first: Column) -> Column:
        return F.struct(of.alias("of"), F.lit(starts).alias("starts"), first.alias("first"))

    attempt, zero, one = F.col("attempt"), F.lit(0), F.lit(1)
    own = row(attempt, 1, F.when(attempt == 1, one).otherwise(zero))
    probe = row(one, 0, one)
    return (
        F.when(~started, F.array(row(zero, 1, zero)))
        .when((attempt > 1) & F.col("young"), F.array(own, probe))
        .otherwise(F.array(own))
    )


def measures(events: DataFrame) -> DataFrame:
    """A row for each thing that an event counts for: its minute, and its hour's queue wait and run time.

    Columns KEY, at, and count, tasks, bytes. `measure` is events, queued or duration; `tasks`: tasks that started.
    """
    nothing = F.lit("")
    minute, hour = F.date_trunc("minute", "at"), F.date_trunc("hour", "at")

    def row(measure: str, bucket: Column, node: Column, reason: Column, bin: Column) -> Column:
        return F.struct(F.lit(measure).alias("measure"), bucket.alias("bucket"), node.alias("node"),
                        reason.alias("reason"), bin.cast("int").alias("bin"))  # fmt: skip

    counted = row("events", minute, F.col("node"), F.col("reason"), F.lit(0))
    timed = [
        row("queued", hour, nothing, nothing, _bin("queued_ms")),
        row("duration", hour, nothing, nothing, _bin("duration_ms")),
    ]
    is_timed = (F.col("event") == "completed") & F.col("duration_ms").isNotNull() & F.col("queued_ms").isNotNull()
    return events.withColumn(
        "m", F.explode(F.when(is_timed, F.array(counted, *timed)).otherwise(F.array(counted)))
    ).select(
        "at", "m.measure", "m.bucket", "event", "m.reason", "name", "m.node", "m.bin",
        F.col("starts").alias("count"), F.col("first").alias("tasks"),
        F.when(F.col("m.measure") == "events", F.coalesce("bytes", F.lit(0))).otherwise(F.lit(0)).alias("bytes"),
    )  # fmt: skip


def totals(rows: DataFrame) -> DataFrame:
    """KEY with the sums of count, tasks and bytes."""
    summed = [F.sum(c).cast("bigint").alias(c) for c in ("count", "tasks", "bytes")]
    return rows.groupBy(F.window("at", STATE_WINDOW), *KEY).agg(*summed).drop("window")


def statistics(events: DataFrame) -> DataFrame:
    """The whole of it, as the query runs it."""
    return totals(measures(distinct(events)))


def _bin(column: str) -> Column:
    """headrace.durations.bin_of, in Spark's words."""
    ms = F.least(F.col(column), F.lit(MOST_MS))
    return F.when(ms <= 0, 0).otherwise(1 + F.ceil(F.log(ms) / math.log(GAMMA) - 1e-9))
