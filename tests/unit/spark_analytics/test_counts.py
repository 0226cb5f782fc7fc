"""Decoder, deduplication and counts on Spark without Kafka: the query's functions on records from files."""

import base64
import itertools
import json
import os
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import types as T

from headrace.contract.duration_bins import bin_of
from spark_analytics.counts import count_events
from spark_analytics.decoder import decode_events
from spark_analytics.sinks.memory import MemorySink

HEADER = T.StructType([T.StructField("key", T.StringType()), T.StructField("value", T.BinaryType())])
RECORD = T.StructType(
    [
        T.StructField("key", T.BinaryType()),
        T.StructField("value", T.BinaryType()),
        T.StructField("topic", T.StringType()),
        T.StructField("partition", T.IntegerType()),
        T.StructField("offset", T.LongType()),
        T.StructField("timestamp", T.TimestampType()),
        T.StructField("headers", T.ArrayType(HEADER)),
    ]
)
AT = datetime(2026, 11, 25, 12, 0, 30, tzinfo=UTC)  # a Wednesday
OFFSETS = itertools.count()
A, B = (str(uuid.UUID(int=i)) for i in (1, 2))


def record(topic: str, task_id: str | bytes | None, at: datetime = AT, **headers: str | bytes) -> Row:
    key = task_id.encode() if isinstance(task_id, str) else task_id
    made = [(k.replace("_", "-"), v.encode() if isinstance(v, str) else v) for k, v in headers.items()]
    return Row(key=key, value=key, topic=f"p.{topic}", partition=0, offset=next(OFFSETS), timestamp=at, headers=made)


def with_headers(task_id: str, headers: list[tuple[str, bytes | None]] | None) -> Row:
    return Row(**record("lifecycle.received", task_id).asDict() | {"headers": headers})


def in_json(value: bytes | datetime) -> str:
    """As Spark reads it back."""
    return value.isoformat() if isinstance(value, datetime) else base64.b64encode(value).decode()


def headers_of(row: Row) -> list[dict[str, object]] | None:
    return None if row.headers is None else [{"key": key, "value": value} for key, value in row.headers]


class Log:
    """Batches of records through the query's functions, one micro-batch each, into a sink in memory."""

    def __init__(self, spark: SparkSession, folder: Path) -> None:
        self._spark, self._folder, self._batches = spark, folder, 0
        (folder / "in").mkdir()

    def add(self, *records: Row) -> "Log":
        lines = (json.dumps(r.asDict() | {"headers": headers_of(r)}, default=in_json) for r in records)
        file = self._folder / "in" / f"{self._batches:03}.json"
        file.write_text("\n".join(lines))
        os.utime(file, (self._batches, self._batches))  # Spark takes the oldest first
        self._batches += 1
        return self

    def count(self) -> MemorySink:
        sink = MemorySink()
        stream = self._spark.readStream.schema(RECORD).option("maxFilesPerTrigger", 1).json(str(self._folder / "in"))
        query = (
            count_events(decode_events(stream, "p."))
            .writeStream.outputMode("update")
            .option("checkpointLocation", str(self._folder / "checkpoint"))
            .trigger(availableNow=True)
            .foreachBatch(lambda batch, i: sink.write(batch.persist(), i))
            .start()
        )
        query.awaitTermination()
        return sink


@pytest.fixture
def log(spark: SparkSession, tmp_path: Path) -> Log:
    return Log(spark, tmp_path)


def events(sink: MemorySink) -> dict[tuple[object, ...], tuple[int, int, int]]:
    """(event, reason, name, node) -> (count, tasks, bytes), all minutes together."""
    found: dict[tuple[object, ...], tuple[int, int, int]] = {}
    for (measure, _bucket, *key, _bin), values in sink.rows.items():
        if measure == "events":
            old = found.get(tuple(key), (0, 0, 0))
            found[tuple(key)] = tuple(a + b for a, b in zip(old, values, strict=True))  # type: ignore[assignment]
    return found


def test_repeats_of_an_event_count_once_within_a_batch_and_across_batches(log: Log) -> None:
    done = record(
        "lifecycle.completed", A, name="prime", node="n", bytes="10", attempt="1", queued_ms="5", duration_ms="7"
    )
    first = record("lifecycle.received", A, name="prime")
    sink = log.add(first, first, done).add(first, done).add(record("lifecycle.received", B, name="prime")).count()
    assert events(sink) == {
        ("received", "", "prime", ""): (2, 0, 0),
        ("completed", "", "prime", "n"): (1, 0, 10),
    }
    assert {(k[0], k[6]): v[0] for k, v in sink.rows.items() if k[0] != "events"} == {
        ("queued", bin_of(5)): 1,
        ("duration", bin_of(7)): 1,
    }


def test_starts_count_by_attempt_and_a_started_task_counts_once(log: Log) -> None:
    def start(task_id: str, attempt: int) -> Row:
        return record(
            "lifecycle.started",
            task_id,
            AT + timedelta(seconds=attempt),
            name="prime",
            node="n",
            attempt=str(attempt),
            submitted_ms=str(int(AT.timestamp() * 1000)),
        )

    # A started twice and repeats; the first attempt of B died before it was announced.
    sink = log.add(start(A, 1), start(A, 1)).add(start(A, 2), start(B, 2)).add(start(A, 1), start(B, 3)).count()
    assert events(sink) == {("started", "", "prime", "n"): (4, 2, 0)}


def test_dead_letters_are_failed_or_cancelled_by_their_reason(log: Log) -> None:
    sink = log.add(
        record("tasks.dead", A, name="prime", node="n", reason="timeout"),
        record("tasks.dead", B, name="prime", reason="cancelled"),
        record("tasks.dead", str(uuid.uuid4()), name="x", reason="made up"),
    ).count()
    assert events(sink) == {
        ("failed", "timeout", "prime", "n"): (1, 0, 0),
        ("cancelled", "cancelled", "prime", ""): (1, 0, 0),
        ("failed", "failed", "x", ""): (1, 0, 0),
    }


def test_events_count_in_the_minute_of_their_record_and_late_ones_where_they_belong(log: Log) -> None:
    late = AT - timedelta(minutes=9)
    sink = (
        log.add(record("lifecycle.received", A, name="prime"))
        .add(record("lifecycle.received", B, late, name="prime"))
        .count()
    )
    buckets = {key[1]: values[0] for key, values in sink.rows.items()}
    assert buckets == {datetime(2026, 11, 25, 12, 0): 1, datetime(2026, 11, 25, 11, 51): 1}


def test_hostile_records_are_counted_as_unreadable_and_stop_nothing(log: Log) -> None:
    sink = log.add(
        record("lifecycle.received", b"\xff\xfe", name="prime"),
        record("lifecycle.received", None),
        record("lifecycle.received", "z" * 36),
        Row(**record("tasks.dead", None).asDict() | {"value": B.encode()}),  # of a task whose key is lost
        record("lifecycle.started", A, name="prime", attempt="1e9"),
        record("lifecycle.started", A, name="far", attempt=str(2**62), submitted_ms=str(-(2**63))),
        record(
            "lifecycle.completed", B, name=b"\xff" * 900, node="n  ", bytes="9" * 30, duration_ms="-1", queued_ms="x"
        ),
        with_headers(A, None),
        with_headers(str(uuid.uuid4()), [("name", b"a"), ("name", b"b"), ("x", None)]),
    ).count()
    found = events(sink)
    assert found["undecodable", "", "", ""][0] == 5
    assert found["started", "", "far", ""] == (1, 1, 0)
    assert found["received", "", "", ""] == (1, 0, 0)
    assert found["received", "", "b", ""] == (1, 0, 0)  # of headers with one name the last counts
    [(key, values)] = [(k, v) for k, v in found.items() if k[0] == "completed"]
    assert len(str(key[2])) <= 200
    assert key[3] == "n"
    assert values == (1, 0, 0)


def test_a_huge_size_does_not_overflow_the_sum(log: Log) -> None:
    sink = log.add(
        *(record("lifecycle.completed", str(uuid.uuid4()), name="p", node="n", bytes=str(2**62)) for _ in range(4))
    ).count()
    assert events(sink)["completed", "", "p", "n"] == (4, 0, 4 * 2**40)


def test_decode_is_a_pure_function_of_records(spark: SparkSession) -> None:
    frame: DataFrame = decode_events(
        spark.createDataFrame([record("lifecycle.received", A, name="prime")], RECORD), "p."
    )
    [row] = frame.collect()
    assert (bytes(row.id), row.event, row.name, row.node) == (uuid.UUID(A).bytes, "received", "prime", "")
