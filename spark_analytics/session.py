"""The Spark session of the statistics: RocksDB for state, little memory, a quiet log, no files left behind.

`main` and the tests that need Spark call `start_session`, once in a process. UsageError when Spark's JVM does not
start: no Java, no connector, an unreachable master.
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
    # Text that is not a number becomes null, so no record stops the query. ANSI's checks cost 3 % of a backlog's time.
    "spark.sql.ansi.enabled": "false",
    "spark.sql.adaptive.enabled": "false",  # streams with state cannot use it, and it costs planning time
    f"{_STATE}.providerClass": "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider",
    f"{_STATE}.rocksdb.changelogCheckpointing.enabled": "true",  # a commit writes only what its batch changed
    f"{_STATE}.rocksdb.trackTotalNumberOfRows": "false",  # it would read each key once more before every write
    f"{_STATE}.rocksdb.boundedMemoryUsage": "true",
    f"{_STATE}.rocksdb.maxMemoryUsageMB": "192",
    # The default one uses FileContext, which starts a `readlink` process for each file that it renames.
    f"{_STREAMING}.checkpointFileManagerClass": (
        "org.apache.spark.sql.execution.streaming.checkpointing.FileSystemBasedCheckpointFileManager"
    ),
    f"{_STREAMING}.minBatchesToRetain": "20",
    f"{_STREAMING}.noDataMicroBatches.enabled": "false",  # the next batch with data removes old state
    f"{_STREAMING}.noDataProgressEventInterval": "2000",  # ms; `readiness` depends on it
    f"{_STREAMING}.stopTimeout": "15000",
    f"{_STREAMING}.metricsEnabled": "false",
    "spark.kafka.consumer.cache.capacity": "256",  # above topics times partitions, or consumers are recreated
    # A backlog leaves some MB of records in each of them; those of restarted queries would fill the heap.
    "spark.kafka.consumer.fetchedData.cache.timeout": "30s",
    "spark.kafka.consumer.fetchedData.cache.evictorThreadRunInterval": "30s",
    "spark.cleaner.referenceTracking.cleanCheckpoints": "false",
    "spark.task.maxFailures": "8",
    "spark.python.worker.reuse": "true",
    "spark.python.daemon.module": f"{__package__}.python_daemon",
}

# A small initial metaspace costs collections of the whole heap at every start. Java's second compiler (C2) took a third
# of all processor time until a backlog was counted: it now waits until a method is called ten times as often.
_JAVA = (
    "-XX:+UseParallelGC -XX:MetaspaceSize=160m -XX:MaxMetaspaceSize=256m -XX:Tier4InvocationThreshold=50000 "
    "-XX:Tier4MinInvocationThreshold=20000 -XX:Tier4CompileThreshold=150000 -XX:Tier4BackEdgeThreshold=400000"
)


def start_session(settings: Settings, folder: Path) -> SparkSession:
    """A session on `settings.spark_master`, with its temporary files in `<folder>/tmp`, which is emptied first.

    The master decides how many partitions the state of a new checkpoint has; an existing checkpoint keeps its number.
    UsageError when Spark does not start.
    """
    temporary = folder / "tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    if settings.spark_master.startswith("local"):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    for name in ("py4j", "pyspark"):  # they also raise what they log
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
    """Runs while the first query is planned, whose first batch would otherwise wait for the workers."""
    with contextlib.suppress(Py4JError, PySparkException, OSError):  # the session may be stopped meanwhile
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
    """The files for comma-separated paths or patterns, as a running driver needs them; UsageError when one has none."""
    found: list[str] = []
    for pattern in patterns.split(","):
        if not (jars := sorted(glob(pattern.strip()))):
            raise UsageError(
                f"HEADRACE_SPARK_JARS: no file matches {pattern.strip()}: give jar files or patterns of them"
            )
        found += jars
    return found


def _partitions(settings: Settings) -> dict[str, str]:
    """Few partitions on one machine: each costs a file and a commit in every batch."""
    return {"spark.sql.shuffle.partitions": "2" if settings.spark_master.startswith("local") else "8"}


def jvm_pid(spark: SparkSession) -> int:
    """The process id of the session's JVM."""
    gateway: Any = spark.sparkContext._gateway
    return int(gateway.proc.pid)
