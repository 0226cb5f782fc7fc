"""The statistics of Headrace's predecessor in a short form, as a baseline for `benchmarks.statistics`.

Seven streaming queries read the topics independently; each resulting row is looked up with a SELECT and then updated or
inserted. Repeats are not removed, and a batch that runs twice counts twice. Spark has its default settings.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from headrace.settings import Settings
from headrace.storage.mysql import Database

WINDOWS = {"minute": "1 minute", "hour": "1 hour", "day": "1 day", "week": "7 days", "month": "30 days"}


def make_tables(database: Database) -> None:
    """Creates its seven empty tables."""
    connection = database.connect()
    with connection.cursor() as cursor:
        for name in (*WINDOWS, "starts", "pending"):
            cursor.execute(f"DROP TABLE IF EXISTS seed_{name}")
            cursor.execute(f"CREATE TABLE seed_{name} (k VARCHAR(100) PRIMARY KEY, n DOUBLE NOT NULL) ENGINE=InnoDB")
    connection.close()


def run(spark: SparkSession, settings: Settings, database: Database, folder: Path) -> None:
    """Counts everything in the topics, with all seven queries at once."""

    def topics(*names: str) -> DataFrame:
        return (
            spark.readStream.format("kafka")
            .option("kafka.bootstrap.servers", settings.kafka)
            .option("subscribe", ",".join(f"{settings.topic_prefix}lifecycle.{n}" for n in names))
            .option("startingOffsets", "earliest")
            .load()
        )

    queries = {
        name: topics("completed").groupBy(F.window("timestamp", length).start.cast("string").alias("k")).count()
        for name, length in WINDOWS.items()
    }
    average = F.count("*") / F.approx_count_distinct("value")  # a stream has no exact distinct count
    queries["starts"] = topics("started").groupBy(F.lit("average").alias("k")).agg(average.alias("count"))
    signed = F.when(F.col("topic").endswith("received"), 1).otherwise(-1)
    queries["pending"] = (
        topics("received", "completed").groupBy(F.lit("pending").alias("k")).agg(F.sum(signed).alias("count"))
    )
    running = [
        frame.writeStream.outputMode("complete")
        .option("checkpointLocation", str(folder / name))
        .trigger(availableNow=True)
        .foreachBatch(_writer(database, f"seed_{name}"))
        .start()
        for name, frame in queries.items()
    ]
    for query in running:
        query.awaitTermination()


def _writer(database: Database, table: str) -> Callable[[DataFrame, int], None]:
    def partition(rows: Iterable[Row]) -> None:
        connection: Any = database.connect()
        with connection.cursor() as cursor:
            for row in rows:
                cursor.execute(f"SELECT n FROM {table} WHERE k = %s", (row["k"],))
                if cursor.fetchone() is None:
                    cursor.execute(f"INSERT INTO {table} VALUES (%s, %s)", (row["k"], row["count"]))
                else:
                    cursor.execute(f"UPDATE {table} SET n = %s WHERE k = %s", (row["count"], row["k"]))
                connection.commit()
        connection.close()

    return lambda batch, _id: batch.foreachPartition(partition)
