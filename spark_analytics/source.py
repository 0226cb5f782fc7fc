"""From Kafka's records to events: one streaming source over the lifecycle topics and the dead letters.

`read` is the only part that knows Kafka; `decode` is a pure function of the records' columns. Nothing in a record can
stop the query: what is no event of its topic becomes an event `undecodable`, which is counted and nothing else.
"""

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.contract.states import Reason
from headrace.contract.submission import MAX_NAME_CHARACTERS
from headrace.settings import Settings
from spark_analytics.kafka_options import kafka_options

TOPICS = ("lifecycle.received", "lifecycle.started", "lifecycle.completed", "tasks.dead")
_MOST_BYTES = 2**40  # of one result: forged sizes must not overflow a sum
_MOST_ATTEMPTS = 10_000
_TASKS_A_CORE = 4
_YOUNG_MS = 600_000  # no longer than the watermark, within which an earlier start of the same task is remembered


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
        "kafka.max.poll.records": "2000",  # of a backlog: a quarter of the polls, and little that each consumer keeps
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
    found = _found(records, prefix)
    started, completed, dead, valid = (F.col(c) for c in ("started", "completed", "dead", "valid"))
    place = F.concat_ws("/", "topic", "partition", "offset").cast("binary")
    event = (
        F.when(~valid, "undecodable")
        .when(started, "started")
        .when(completed, "completed")
        .when(~dead, "received")
        .when(F.col("text") == str(Reason.CANCELLED), "cancelled")
        .otherwise("failed")
    )
    since_submission = F.when(F.col("second") >= 0, F.unix_millis("at") - F.col("second"))
    reasons = F.array(*(F.lit(str(r)) for r in Reason))
    reason = F.when(F.array_contains(reasons, F.col("text")), F.col("text")).otherwise(str(Reason.FAILED))
    return found.select(
        F.when(valid, F.col("id")).otherwise(place).alias("id"),
        event.alias("event"),
        "at",
        "partition",
        F.when(valid, F.col("name")).otherwise("").alias("name"),
        F.when(valid, F.col("node")).otherwise("").alias("node"),
        F.when(valid & started, F.least("first", F.lit(_MOST_ATTEMPTS))).otherwise(0).cast("int").alias("attempt"),
        F.when(valid & dead, reason).otherwise("").alias("reason"),
        F.when(completed & (F.col("first") >= 0), F.least("first", F.lit(_MOST_BYTES))).alias("bytes"),
        F.when(completed & (F.col("second") >= 0), F.col("second")).alias("queued_ms"),
        F.when(F.col("third") >= 0, F.col("third")).alias("duration_ms"),
        (~started | F.coalesce(since_submission <= _YOUNG_MS, F.lit(True))).alias("young"),
    )


def _found(records: DataFrame, prefix: str) -> DataFrame:
    """What key and headers say, beside topic, partition, offset and at.

    Adds started, completed, dead (of which topic it is), id, name, node, text, first, second, third, and whether the
    record is valid. Each step's columns are what the next one uses more than once: Spark computes them once, and so the
    method that it generates stays small enough to be compiled soon.
    """
    started, completed, dead = F.col("started"), F.col("completed"), F.col("dead")
    # Headers that only one topic has: a search for the first of them serves all topics, as does one for the second. So
    # `first` is an attempt or bytes (`text`: also a reason), `second` a submission or a wait, `third` a run time.
    own = (
        F.when(started, "attempt").when(completed, "bytes").when(dead, "reason"),
        F.when(started, "submitted-ms").when(completed, "queued-ms"),
        F.when(completed, "duration-ms"),
    )
    keyless = F.when(F.col("topic") != prefix + "tasks.dead", F.col("value"))  # a dead letter's is the submission
    return (
        records.select(
            "topic",
            "partition",
            "offset",
            "headers",
            F.col("timestamp").alias("at"),
            F.col("topic").eqNullSafe(prefix + "lifecycle.started").alias("started"),
            F.col("topic").eqNullSafe(prefix + "lifecycle.completed").alias("completed"),
            F.col("topic").eqNullSafe(prefix + "tasks.dead").alias("dead"),
            F.replace(F.coalesce("key", keyless).cast("string"), F.lit("-"), F.lit("")).alias("digits"),
            F.reverse("headers.key").alias("names"),  # the last header of a name counts everywhere
        )
        .withColumns(
            {"id": F.when(F.octet_length("digits") == 32, F.unhex("digits"))}
            | {name: _name(_text(F.lit(name))) for name in ("name", "node")}
            | {"text": _text(own[0])}
            | {"second": _text(own[1]).try_cast("bigint"), "third": _text(own[2]).try_cast("bigint")}
        )
        .withColumn("first", F.col("text").try_cast("bigint"))
        .withColumn("valid", F.col("id").isNotNull() & (~started | F.coalesce(F.col("first") >= 0, F.lit(False))))
    )


def _text(name: Column) -> Column:
    """The last header of that name, or null."""
    at = F.size("names") - F.array_position("names", name)  # beyond the end when it is not there
    return F.get("headers", at.cast("int"))["value"].cast("string")


def _name(text: Column) -> Column:
    """What becomes part of a key in the database, where trailing spaces do not tell texts apart."""
    short = F.substring(F.call_function("make_valid_utf8", text), 1, MAX_NAME_CHARACTERS)
    return F.coalesce(F.rtrim(short), F.lit(""))
