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
        "includeHeaders": "true",
    }
    return spark.readStream.format("kafka").options(**options).load()


def decode(records: DataFrame, prefix: str = "") -> DataFrame:
    """Columns id (16 bytes), event, at, name, node, attempt, reason, bytes, queued_ms, duration_ms, young.

    `records` has Kafka's columns key, value, topic, partition, offset, timestamp, headers. `event` is received,
    started, completed, failed, cancelled or undecodable. `young`: no more than ten minutes after its submission.
    """
    topic = F.substring(F.col("topic"), len(prefix) + 1, 100)
    found = records.select(
        topic.alias("topic"), "partition", "offset", F.col("timestamp").alias("at"),
        F.coalesce(_uuid("key"), F.when(topic != "tasks.dead", _uuid("value"))).alias("id"),
        F.map_from_entries("headers").alias("headers"),
    )  # fmt: skip
    attempt = _number("attempt", _MOST_ATTEMPTS)
    valid = F.col("id").isNotNull() & (~F.col("topic").isin("lifecycle.started") | attempt.isNotNull())
    place = F.concat_ws("/", "topic", "partition", "offset").cast("binary")
    reason = F.when(_text("reason").isin([str(r) for r in Reason]), _text("reason")).otherwise(str(Reason.FAILED))
    dead, completed = F.col("topic") == "tasks.dead", F.col("topic") == "lifecycle.completed"
    event = (
        F.when(~valid, "undecodable")
        .when(~dead, F.substring_index("topic", ".", -1))
        .when(reason == str(Reason.CANCELLED), "cancelled")
        .otherwise("failed")
    )
    submitted_ms = _number("submitted-ms", 2**53)
    return found.select(
        F.when(valid, F.col("id")).otherwise(place).alias("id"),
        event.alias("event"),
        "at",
        F.when(valid, _name("name")).otherwise("").alias("name"),
        F.when(valid, _name("node")).otherwise("").alias("node"),
        F.coalesce(attempt, F.lit(0)).cast("int").alias("attempt"),
        F.when(valid & dead, reason).otherwise("").alias("reason"),
        F.when(completed, _number("bytes", _MOST_BYTES)).alias("bytes"),
        F.when(completed | dead, _number("queued-ms", 2**53)).alias("queued_ms"),
        F.when(completed | dead, _number("duration-ms", 2**53)).alias("duration_ms"),
        F.coalesce(F.unix_millis("at") - submitted_ms <= YOUNG_MS, F.lit(True)).alias("young"),
    )


YOUNG_MS = 600_000  # no longer than the watermark, within which an earlier start of the same task is remembered


def _uuid(column: str) -> Column:
    """The 16 bytes of a UUID in any of the forms that headrace.ids takes; null when it is none."""
    text = F.col(column).cast("string")
    bare = F.translate(F.replace(F.replace(text, F.lit("urn:"), F.lit("")), F.lit("uuid:"), F.lit("")), "{}-", "")
    hex_digits = F.when(F.length(text) == 36, F.translate(text, "-", "")).otherwise(bare)
    return F.when(F.length(hex_digits) == 32, F.unhex(hex_digits))


def _text(name: str) -> Column:
    """The last header of that name, or null."""
    return F.col("headers")[name].cast("string")


def _name(name: str) -> Column:
    """A header that becomes part of a key in the database, where trailing spaces do not tell texts apart."""
    valid = F.call_function("make_valid_utf8", _text(name))
    return F.coalesce(F.rtrim(F.substring(valid, 1, MAX_NAME_CHARACTERS)), F.lit(""))


def _number(name: str, most: int) -> Column:
    """A header as a whole number from 0 to `most` (larger ones become `most`), or null."""
    found = _text(name).try_cast("bigint")
    return F.when(found >= 0, F.least(found, F.lit(most)))
