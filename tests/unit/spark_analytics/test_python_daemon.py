"""Where Spark's Python workers import their modules from."""

from collections.abc import Iterator
from pathlib import Path

from pyspark.sql import SparkSession

from spark_analytics.python_daemon import zips_last


def test_sparks_zips_go_last_and_all_else_keeps_its_order() -> None:
    zips = ["/spark/python/lib/pyspark.zip", "/spark/python/lib/py4j-0.10-src.zip"]
    path = ["/work", *zips, "/usr/lib/python311.zip", "/site-packages"]
    assert zips_last(path) == ["/work", "/usr/lib/python311.zip", "/site-packages", *zips]


def test_a_worker_imports_the_installed_package(spark: SparkSession) -> None:
    def whence(_: Iterator[int]) -> Iterator[str]:
        import pyspark.worker

        yield pyspark.worker.__file__

    [found] = spark.sparkContext.parallelize([0], 1).mapPartitions(whence).collect()
    assert Path(found).is_file()
    assert ".zip" not in found
