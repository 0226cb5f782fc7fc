"""From Kafka's records to events: what key and headers of a lifecycle record or a dead letter say.

A pure function of the records' columns, called by `query`. No record can stop the query: one that is not an event of
its topic becomes the event `undecodable`, which is only counted.
"""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from headrace.contract.states import Reason
from headrace.contract.submission import MAX_NAME_CHARACTERS

_MOST_BYTES = 2**40  # of one result: forged sizes must not overflow a sum
_MOST_ATTEMPTS = 10_000
_YOUNG_MS = 600_000  # at most the watermark: within it the state remembers an earlier start of the same task


def decode_events(records: DataFrame, prefix: str = "") -> DataFrame:
    """Columns id (16 bytes), event, at, partition, name, node, attempt, reason, bytes, queued_ms, duration_ms, young.

    `records` has Kafka's columns key, value, topic, partition, offset, timestamp, headers; `prefix` is that of the
    topics. `event` is received, started, completed, failed, cancelled or undecodable. `young`: the record
    came at most ten minutes after the task's submission.
    """
    found = _parse_headers(records, prefix)
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


def _parse_headers(records: DataFrame, prefix: str) -> DataFrame:
    """Key and headers as columns, beside topic, partition, offset and at.

    Adds started, completed, dead (the record's topic), id, name, node, text, first, second, third, and whether the
    record is valid. Each step makes the columns that the next one uses more than once: Spark then computes them once,
    and the method that it generates stays small enough for Java to compile it soon.
    """
    started, completed, dead = F.col("started"), F.col("completed"), F.col("dead")
    # Each of these headers occurs in one topic only, so one search serves all topics. `first` is an attempt or bytes
    # (`text` also a reason), `second` a submission time or a queue wait, `third` a run time.
    own = (
        F.when(started, "attempt").when(completed, "bytes").when(dead, "reason"),
        F.when(started, "submitted-ms").when(completed, "queued-ms"),
        F.when(completed, "duration-ms"),
    )
    id_in_value = F.when(F.col("topic") != prefix + "tasks.dead", F.col("value"))  # a dead letter's is the submission
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
            F.replace(F.coalesce("key", id_in_value).cast("string"), F.lit("-"), F.lit("")).alias("digits"),
            F.reverse("headers.key").alias("names"),  # of headers with one name, every role takes the last
        )
        .withColumns(
            {"id": F.when(F.octet_length("digits") == 32, F.unhex("digits"))}
            | {name: _short_name(_header(F.lit(name))) for name in ("name", "node")}
            | {"text": _header(own[0])}
            | {"second": _header(own[1]).try_cast("bigint"), "third": _header(own[2]).try_cast("bigint")}
        )
        .withColumn("first", F.col("text").try_cast("bigint"))
        .withColumn("valid", F.col("id").isNotNull() & (~started | F.coalesce(F.col("first") >= 0, F.lit(False))))
    )


def _header(name: Column) -> Column:
    """The text of the last header with that name, or null."""
    at = F.size("names") - F.array_position("names", name)  # beyond the end when there is no such header
    return F.get("headers", at.cast("int"))["value"].cast("string")


def _short_name(text: Column) -> Column:
    """Short valid UTF-8 without trailing spaces: it becomes part of a key, and MySQL's keys ignore those."""
    short = F.substring(F.call_function("make_valid_utf8", text), 1, MAX_NAME_CHARACTERS)
    return F.coalesce(F.rtrim(short), F.lit(""))
