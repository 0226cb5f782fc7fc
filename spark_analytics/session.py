"""The Spark session of the statistics: RocksDB for state, little memory, a quiet log, no files left behind.

`start_session` is called once a process, by `main` and by tests that need Kafka. UsageError when Spark's JVM does not
come up (no Java, no connector, a master that cannot be reached).
"""

import contextlib
import logging
import os
import shutil
import sys
import threading
from collections.abc import Iterable
from glob import glob
from importlib.resources import files
from pathlib import Path
from typing import Any

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from headrace.errors import UsageError
from headrace.settings import Settings

CONNECTOR = "org.apache.spark:spark-sql-kafka-0-10_2.13:4.2.0"
_STREAMING = "spark.sql.streaming"
_STATE = f"{_STREAMING}.stateStore"

OPTIONS = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.session.timeZone": "UTC",
    # What is no number becomes null, and nothing in a record stops the query; its checks cost 3 % of a backlog's time.
    "spark.sql.ansi.enabled": "false",
    "spark.sql.adaptive.enabled": "false",  # streams of state have none, and it would only cost planning
    f"{_STATE}.providerClass": "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider",
    f"{_STATE}.rocksdb.changelogCheckpointing.enabled": "true",  # a batch costs what it changed
    f"{_STATE}.rocksdb.trackTotalNumberOfRows": "false",  # it reads each key once more before every write
    f"{_STATE}.rocksdb.boundedMemoryUsage": "true",
    f"{_STATE}.rocksdb.maxMemoryUsageMB": "192",
    # The default one, on FileContext, starts `readlink` for each file that it renames.
    f"{_STREAMING}.checkpointFileManagerClass": (
        "org.apache.spark.sql.execution.streaming.checkpointing.FileSystemBasedCheckpointFileManager"
    ),
    f"{_STREAMING}.minBatchesToRetain": "20",
    f"{_STREAMING}.noDataMicroBatches.enabled": "false",  # state goes with the next batch that has data
    f"{_STREAMING}.noDataProgressEventInterval": "2000",  # ms; health reads it
    f"{_STREAMING}.stopTimeout": "15000",
    f"{_STREAMING}.metricsEnabled": "false",
    "spark.kafka.consumer.cache.capacity": "256",  # consumers: above topics times partitions, or they are made anew
    # A backlog leaves some MB of records for each of them; those of a query that started again would fill the heap.
    "spark.kafka.consumer.fetchedData.cache.timeout": "30s",
    "spark.kafka.consumer.fetchedData.cache.evictorThreadRunInterval": "30s",
    "spark.cleaner.referenceTracking.cleanCheckpoints": "false",
    "spark.task.maxFailures": "8",
    "spark.python.worker.reuse": "true",
    "spark.python.daemon.module": "spark_analytics.python_daemon",
}

# Metaspace that begins small costs collections of the whole heap at every start. Java's second compiler took a third of
# all processor time until a backlog was counted: it comes later, to what is called ten times as often.
_JAVA = (
    "-XX:+UseParallelGC -XX:MetaspaceSize=160m -XX:MaxMetaspaceSize=256m -XX:Tier4InvocationThreshold=50000 "
    "-XX:Tier4MinInvocationThreshold=20000 -XX:Tier4CompileThreshold=150000 -XX:Tier4BackEdgeThreshold=400000"
)


def start_session(settings: Settings, folder: Path) -> SparkSession:
    """A session on `settings.spark_master`, with its temporary files in `folder`, which is emptied first.

    The master's cores decide how many partitions the state of a new checkpoint has, and a checkpoint keeps its number.
    """
    temporary = folder / "tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    if settings.spark_master.startswith("local"):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    for name in ("py4j", "pyspark"):  # their exceptions reach us as exceptions
        logging.getLogger(name).setLevel(logging.CRITICAL)
    options = OPTIONS | _memory(settings, temporary) | _jars(settings, folder) | _partitions(settings)
    builder = SparkSession.builder.appName("headrace-analytics").master(settings.spark_master)
    for key, value in options.items():
        builder = builder.config(key, value)
    try:
        spark = builder.getOrCreate()
    except (PySparkException, OSError) as e:
        raise UsageError(
            f"Spark does not start at {settings.spark_master} ({e}): check Java and HEADRACE_SPARK_MASTER"
        ) from None
    threading.Thread(target=_start_python_workers, args=(spark,), name="python-workers", daemon=True).start()
    return spark


def _start_python_workers(spark: SparkSession) -> None:
    """While a query is planned: the end of its first batch would else wait for them."""
    with contextlib.suppress(Py4JError, PySparkException, OSError):  # it may be told to stop meanwhile
        context = spark.sparkContext
        context.parallelize(range(context.defaultParallelism)).foreachPartition(_nothing)


def _nothing(_: Iterable[int]) -> None:
    pass


def _memory(settings: Settings, temporary: Path) -> dict[str, str]:
    log4j = files(__package__).joinpath("log4j2.properties")
    java = f"{_JAVA} -Djava.io.tmpdir={temporary}"
    found = {
        "spark.driver.memory": settings.spark_memory,
        "spark.executor.memory": settings.spark_memory,
        "spark.driver.extraJavaOptions": f"{java} -Dlog4j2.configurationFile={log4j}",
        "spark.executor.extraJavaOptions": _JAVA,
        "spark.local.dir": str(temporary),
    }
    if settings.spark_master.startswith("local"):
        found |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    return found


def _jars(settings: Settings, folder: Path) -> dict[str, str]:
    if settings.spark_jars:
        return {"spark.jars": ",".join(jar_files(settings.spark_jars))}
    return {"spark.jars.packages": CONNECTOR, "spark.jars.ivy": str(folder / "ivy")}


def jar_files(patterns: str) -> list[str]:
    """The jar files that comma-separated paths or patterns name: Spark itself resolves none for a running driver."""
    found: list[str] = []
    for pattern in patterns.split(","):
        if not (jars := sorted(glob(pattern.strip()))):
            raise UsageError(f"HEADRACE_SPARK_JARS: there is no {pattern.strip()}: give jar files or patterns of them")
        found += jars
    return found


def _partitions(settings: Settings) -> dict[str, str]:
    """Few partitions for one machine: each costs every batch a file and a commit."""
    return {"spark.sql.shuffle.partitions": "2" if settings.spark_master.startswith("local") else "8"}


def jvm_pid(spark: SparkSession) -> int:
    """The process id of the session's JVM."""
    gateway: Any = spark.sparkContext._gateway
    return int(gateway.proc.pid)
