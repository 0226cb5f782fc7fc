"""Counts in MySQL or MariaDB: partitions upsert absolute counts, then the hours of changed minutes are summed.

Each executor process has a connection pool. A key's counts only grow, so the larger of old and new is kept: a batch
replayed after a kill and a write of an executor that should be dead change nothing. pymysql's errors become Retryable
when the database is away; any other error is a bug and is raised as it is.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pymysql
from dbutils.pooled_db import PooledDB
from pyspark.accumulators import Accumulator, AccumulatorParam
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from headrace.errors import Retryable
from headrace.storage.mysql import Database

from ..migrate import migrate

_AWAY = (pymysql.OperationalError, pymysql.InterfaceError)
_ROWS = 1000  # in one statement
_KEPT_BATCHES = 1000

_COUNTS = """
INSERT INTO counts_minute (bucket, event, reason, name, node, count, tasks, bytes)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON DUPLICATE KEY UPDATE count = GREATEST(count, VALUES(count)), tasks = GREATEST(tasks, VALUES(tasks)),
bytes = GREATEST(bytes, VALUES(bytes))
"""
_DURATIONS = """
INSERT INTO durations_hour (bucket, measure, name, bin, count) VALUES (%s, %s, %s, %s, %s)
ON DUPLICATE KEY UPDATE count = GREATEST(count, VALUES(count))
"""
_HOUR = """
INSERT INTO counts_hour (bucket, event, reason, name, node, count, tasks, bytes)
SELECT %(hour)s, event, reason, name, node, SUM(count), SUM(tasks), SUM(bytes) FROM counts_minute
WHERE bucket >= %(hour)s AND bucket < %(hour)s + INTERVAL 1 HOUR GROUP BY event, reason, name, node
ON DUPLICATE KEY UPDATE count = VALUES(count), tasks = VALUES(tasks), bytes = VALUES(bytes)
"""
_BATCH = """
INSERT INTO batches (checkpoint, batch, written_at, late) VALUES (%s, %s, UTC_TIMESTAMP(3), %s)
ON DUPLICATE KEY UPDATE late = GREATEST(late, VALUES(late))
"""


class MySqlSink:
    """The statistics' database at `mysql://user:password@host:port/name`."""

    def __init__(self, url: str) -> None:
        self.database = Database.parse(url)
        self._hours: Accumulator[set[str]] | None = None  # one for all batches: Spark keeps every accumulator

    def prepare(self) -> None:
        with retryable():
            migrate(self.database)

    def write(self, batch: DataFrame, batch_id: int) -> None:
        database = self.database
        with retryable():
            _pool(database).connection().close()  # tried here first: Spark logs a failed task at length
        if self._hours is None:
            self._hours = batch.sparkSession.sparkContext.accumulator(set[str](), _Union())
        self._hours.value = set()
        hours = self._hours
        try:
            # as text, in UTC: as a timestamp it would reach Python in the local time zone
            rows = batch.withColumn("bucket", F.date_format("bucket", "yyyy-MM-dd HH:mm:ss"))
            rows.foreachPartition(lambda rows: hours.add(write_rows(database, rows)))
        except PySparkException as e:
            if any(f"pymysql.err.{error.__name__}" in str(e) for error in _AWAY):
                raise Retryable("the database went away during the write of a batch") from None
            raise
        with retryable(), connection(database) as c, c.cursor() as cursor:
            for hour in sorted(hours.value):
                cursor.execute(_HOUR, {"hour": hour})
            c.commit()

    def record_batch(self, checkpoint: str, batch_id: int, late: int) -> None:
        with retryable(), connection(self.database) as c, c.cursor() as cursor:
            cursor.execute(_BATCH, (checkpoint, batch_id, late))
            cursor.execute(
                "DELETE FROM batches WHERE checkpoint = %s AND batch < %s AND late = 0",
                (checkpoint, batch_id - _KEPT_BATCHES),
            )
            c.commit()

    def has_checkpoint(self, checkpoint: str) -> bool:
        with retryable(), connection(self.database) as c, c.cursor() as cursor:
            cursor.execute("SELECT 1 FROM batches WHERE checkpoint = %s LIMIT 1", (checkpoint,))
            return cursor.fetchone() is not None

    def check(self) -> str | None:
        try:
            self.database.connect(timeout_s=2).close()
        except (pymysql.MySQLError, OSError) as e:
            return f"the database does not answer: {e.args[-1] if e.args else e}"
        return None


class _Union(AccumulatorParam[set[str]]):
    """Brings the hours that the partitions wrote to the driver, without a Spark job of its own."""

    def zero(self, value: set[str]) -> set[str]:
        return set()

    def addInPlace(self, value1: set[str], value2: set[str]) -> set[str]:
        return value1 | value2


def write_rows(database: Database, rows: Iterable[Row]) -> set[str]:
    """Writes a partition's rows in one transaction; returns the hours of its minutes. Runs in an executor."""
    counts: list[tuple[Any, ...]] = []
    durations: list[tuple[Any, ...]] = []
    for r in rows:
        if r["measure"] == "events":
            counts.append(
                (r["bucket"], r["event"], r["reason"], r["name"], r["node"], r["count"], r["tasks"], r["bytes"])
            )
        else:
            durations.append((r["bucket"], r["measure"], r["name"], r["bin"], r["count"]))
    if not counts and not durations:
        return set()
    with connection(database) as c, c.cursor() as cursor:
        for statement, values in ((_COUNTS, sorted(counts)), (_DURATIONS, sorted(durations))):  # sorted: no deadlocks
            for at in range(0, len(values), _ROWS):
                cursor.executemany(statement, values[at : at + _ROWS])
        c.commit()
    return {f"{bucket[:13]}:00:00" for bucket, *_ in counts}


@contextmanager
def connection(database: Database) -> Iterator[Any]:
    """A pooled connection; uncommitted writes are rolled back."""
    c = _pool(database).connection()
    try:
        yield c
    finally:
        c.close()


@contextmanager
def retryable() -> Iterator[None]:
    """Turns the errors of a database that does not answer into Retryable."""
    try:
        yield
    except (*_AWAY, OSError) as e:
        raise Retryable(f"the database does not answer: {e.args[-1] if e.args else e}") from None


@cache
def _pool(database: Database) -> PooledDB:
    """One pool for each process and database."""
    return database.pool()
