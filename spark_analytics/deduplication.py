"""Where the statistics drop repeats: of each event only the first record counts.

`counts` calls it. A pure function of columns, which runs on streams and on tables. The stream's state is bounded by
WATERMARK: Spark drops a later event and reports how many it dropped.
"""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

WATERMARK = "10 minutes"  # the protocol (docs/protocol.md) asks for ten minutes at least, for repeats and late events


def drop_repeats(events: DataFrame) -> DataFrame:
    """Keeps the first of each event, by task id, and for `started` by id and attempt. Takes `decode_events`' columns.

    The key begins with the partition, which is the same for all records of an id: records arrive a partition at a
    time, so the keys that one batch looks up in the state lie close together.

    Adds `starts` (0 or 1: how many starts the row counts) and `first` (0 or 1: whether the task had not started
    before). A node may die between a claim and its announcement, so the first announced attempt may be 2. A later
    attempt therefore gets a second row under attempt 1's key. That row counts no start; it survives only if the task
    has not started before.
    """
    attempt, place = F.col("attempt"), F.col("place")  # place -1: attempt 1's key, used by a later attempt
    may_be_first = (attempt > 1) & F.col("young")
    places = F.when(may_be_first, F.array(attempt, F.lit(-1))).otherwise(F.array(attempt))
    unique = (
        events.withColumn("place", F.explode(places))
        .withColumn("of", F.abs(place))
        .drop("attempt", "young")
        .withWatermark("at", WATERMARK)
        .dropDuplicatesWithinWatermark(["partition", "id", "event", "of"])
    )
    return unique.withColumns(
        {"starts": F.when(place < 0, 0).otherwise(1), "first": F.when(F.col("of") == 1, 1).otherwise(0)}
    )
