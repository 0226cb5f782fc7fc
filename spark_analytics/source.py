"""From Kafka's records to events: one streaming source over the lifecycle topics and the dead letters.

`read` is the only part that knows Kafka; `decode` is a pure function of the records' columns. Nothing in a record can
stop the query: what is no event of its topic becomes an event `undecodable`, which is counted and nothing else.
"""

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.messages import MAX_NAME_CHARACTERS
from headrace.settings import Settings
from headrace.states import Reason
from spark_analytics.kafka_options import kafka_options

TOPICS = ("lifecycle.received", "lifecycle.started", "lifecycle.completed", "tasks.dead")
_MOST_BYTES = 2**40  # of one result: forged sizes must not overflow a sum
_MOST_ATTEMPTS = 10_000
_TASKS_A_CORE = 4


def read(spark: SparkSession, settings: Settings) -> DataFrame:
    """The records of all topics, from the first on, each trigger up to what is there.

    No limit to a batch: partitions read to different times would make events of the slower ones seem late. Nothing is
    held in memory for it; what a batch holds streams through to disk.
    """
    options = kafka_options(settings) | {
        "subscribe": ",".join(settings.topic_prefix + t for t in TOPICS),
        "startingOffsets": "earliest",
        "failOnDataLoss": "true",
        "kafka.fetch.max.wait.ms": "10",
        "kafka.max.poll.records": "5000",  # of a backlog: ten times fewer polls
        "kafka.max.partition.fetch.bytes": str(4 * 2**20),
        "kafka.metric.reporters": "",  # some hundred JMX beans for each consumer, and one a partition
        "kafka.enable.metrics.push": "false",
        "includeHeaders": "true",
    }
    records = spark.readStream.format("kafka").options(**options).load()
    if not settings.spark_master.startswith("local"):  # executors may come and go: how many cores there are is open
        return records
    # A task reads several partitions, one after the other: with one for each, few events were dozens of tasks.
    return records.coalesce(_TASKS_A_CORE * spark.sparkContext.defaultParallelism)


def decode(records: DataFrame, prefix: str = "") -> DataFrame:
    """Columns id (16 bytes), event, at, partition, name, node, attempt, reason, bytes, queued_ms, duration_ms, young.

    `records` has Kafka's columns key, value, topic, partition, offset, timestamp, headers. `event` is received,
    started, completed, failed, cancelled or undecodable. `young`: no more than ten minutes after its submission.
    """
    is_dead = F.col("topic") == prefix + "tasks.dead"
    started, completed = (F.col("topic") == f"{prefix}lifecycle.{event}" for event in ("started", "completed"))
    # Each step's columns are what the next one uses more than once: Spark computes them once, and so the method that it
    # generates stays small enough to be compiled soon. Reversed, as the last header of a name counts everywhere.
    found = records.select(
        "topic", "partition", "offset", "headers", F.col("timestamp").alias("at"),
        _uuid(F.coalesce("key", F.when(~is_dead, F.col("value"))).cast("string")).alias("id"),
        F.reverse("headers.key").alias("names"),
    ).withColumns(
        {name: F.call_function("make_valid_utf8", _text(name)) for name in ("name", "node")}
        | {name: F.when(started, _text(name).try_cast("bigint")) for name in ("attempt", "submitted-ms")}
        | {name: F.when(completed, _text(name).try_cast("bigint")) for name in ("bytes", "queued-ms", "duration-ms")}
        | {"reason": F.when(is_dead, _text("reason"))}
    )  # fmt: skip
    valid = F.col("id").isNotNull() & (~started | (F.col("attempt") >= 0))
    place = F.concat_ws("/", "topic", "partition", "offset").cast("binary")
    reason = F.when(F.col("reason").isin([str(r) for r in Reason]), F.col("reason")).otherwise(str(Reason.FAILED))
    event = (
        F.when(~F.col("valid"), "undecodable")
        .when(started, "started")
        .when(completed, "completed")
        .when(~is_dead, "received")
        .when(F.col("reason") == str(Reason.CANCELLED), "cancelled")
        .otherwise("failed")
    )
    return found.withColumn("valid", F.coalesce(valid, F.lit(False))).select(
        F.when(F.col("valid"), F.col("id")).otherwise(place).alias("id"),
        event.alias("event"),
        "at",
        "partition",
        F.when(F.col("valid"), _name("name")).otherwise("").alias("name"),
        F.when(F.col("valid"), _name("node")).otherwise("").alias("node"),
        F.when(F.col("valid") & started, _number("attempt", _MOST_ATTEMPTS)).otherwise(0).cast("int").alias("attempt"),
        F.when(F.col("valid") & is_dead, reason).otherwise("").alias("reason"),
        _number("bytes", _MOST_BYTES).alias("bytes"),
        _number("queued-ms", 2**53).alias("queued_ms"),
        _number("duration-ms", 2**53).alias("duration_ms"),
        F.coalesce(F.unix_millis("at") - _number("submitted-ms", 2**53) <= YOUNG_MS, F.lit(True)).alias("young"),
    )


YOUNG_MS = 600_000  # no longer than the watermark, within which an earlier start of the same task is remembered


def _uuid(text: Column) -> Column:
    """The 16 bytes of a UUID in text, with or without hyphens; null when it is none."""
    digits = F.replace(text, F.lit("-"), F.lit(""))
    return F.when(F.octet_length(digits) == 32, F.unhex(digits))


def _text(name: str) -> Column:
    """The last header of that name, or null."""
    at = F.size("names") - F.array_position("names", name)  # beyond the end when it is not there
    return F.get("headers", at.cast("int"))["value"].cast("string")


def _name(column: str) -> Column:
    """What becomes part of a key in the database, where trailing spaces do not tell texts apart."""
    short = F.when(F.octet_length(column) <= MAX_NAME_CHARACTERS, F.col(column)).otherwise(
        F.substring(column, 1, MAX_NAME_CHARACTERS)
    )
    return F.coalesce(F.rtrim(short), F.lit(""))


def _number(column: str, most: int) -> Column:
    """A whole number from 0 to `most` (larger ones become `most`), or null."""
    return F.when(F.col(column) >= 0, F.least(F.col(column), F.lit(most)))
