"""A class archive for Spark's JVM, trained once: later runs start, and count, in a fraction of the time.

Spark's class path has hundreds of jars. Finding and verifying some 10,000 classes in them is most of the cost of a
start, and a backlog is first counted by code that Java has no profile of. `train` runs the real query once over a
broker and lets the JVM write an archive at its exit: the classes and, from Java 25 on, the profiles of their methods
(AOT cache). Without an archive, or with one for another Java or other jars, everything works, but slower.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.contract.records import Outgoing, Source
from headrace.contract.task import Task
from headrace.kafka.client import Kafka
from headrace.kafka.sender import Sender
from headrace.settings import Settings

from .artifacts import artifact
from .java import SPARK_JAVA, java_version, spark_java_home
from .sample_records import completed_task

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_LONGEST_S = 300.0  # of a training run
_TASKS = 40_000  # for the training, in slices
_SLICE = 4_000


def class_archive() -> Path:
    """Path of the archive for this environment's Spark and Java; in the environment, so that both go together."""
    home, release = spark_java_home(), spark_java_home() / "release"
    parts = (str(home), release.read_text() if release.exists() else "", version("pyspark"), connector())
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return Path(sys.prefix) / f"headrace-spark-{digest[:12]}.archive"


def options() -> list[str]:
    """The JVM options that use the archive; empty while there is none."""
    if not class_archive().exists():
        return []
    if _keeps_profiles():  # JDK-8364929: Java 25 mixes up stored adapters, notices it and warns on stdout
        return [f"-XX:AOTCache={class_archive()}", "-XX:+UnlockDiagnosticVMOptions", "-XX:-AOTAdapterCaching"]
    return [f"-XX:SharedArchiveFile={class_archive()}"]


def environ() -> dict[str, str]:
    """The environment variables for a process that starts Spark's driver: Java, class path, archive."""
    inherited = os.environ.get("SPARK_SUBMIT_OPTS", "")
    return _java() | {"SPARK_SUBMIT_OPTS": " ".join((*options(), inherited)).strip()}


def connector() -> str:
    """The jars of Spark's Kafka connector, in HEADRACE_SPARK_JARS' form."""
    return ",".join(sorted(str(p) for p in artifact("spark-kafka").glob("*.jar")))


def train(bootstrap: str) -> None:
    """Makes the archive with a broker that has the topics. CalledProcessError or TimeoutExpired when that fails."""
    archive = class_archive()
    for older in archive.parent.glob("headrace-spark-*"):
        older.unlink()
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".train-") as name:
        made = Path(name) / "archive"
        option = "AOTCacheOutput" if _keeps_profiles() else "ArchiveClassesAtExit"
        own = _java() | {"SPARK_SUBMIT_OPTS": f"-XX:{option}={made}"}
        command = [sys.executable, "-m", "infra.local.spark_archive", bootstrap, name]
        subprocess.run(command, check=True, timeout=_LONGEST_S, env={**os.environ, **own}, capture_output=True)
        if made.exists():
            made.replace(archive)


def _java() -> dict[str, str]:
    """Adds the connector to the class path: the archive holds only classes from the JVM's initial class path."""
    return {"JAVA_HOME": str(spark_java_home()), "SPARK_DIST_CLASSPATH": connector().replace(",", os.pathsep)}


def _keeps_profiles() -> bool:
    return (java_version(spark_java_home() / "bin" / "java") or 0) >= SPARK_JAVA


def main(arguments: list[str]) -> int:
    """The training, in a process of its own: events through the query, then an orderly end of the JVM."""
    from spark_analytics.job import StatisticsJob
    from spark_analytics.metrics import Metrics
    from spark_analytics.session import start_session
    from spark_analytics.sinks.memory import MemorySink

    class TrainingSink(MemorySink):
        """Sends rows to Python workers too, as the MySQL sink does."""

        def write(self, batch: "DataFrame", batch_id: int) -> None:
            super().write(batch, batch_id)
            batch.foreachPartition(_ignore)

    [bootstrap, folder] = arguments
    settings = replace(Settings(), kafka=bootstrap, spark_jars=connector(), trigger_s=0.2, data=Path(folder))
    kafka, sink = Kafka(settings, "train"), TrainingSink()
    sender = Sender(kafka)
    for first in range(0, _TASKS, _SLICE):
        sender.send_all([e for i in range(first, first + _SLICE) for e in _task_records(i)], 60)
    spark = start_session(settings, settings.data)
    process = spark.sparkContext._gateway.proc  # type: ignore[union-attr]
    job = StatisticsJob(spark, settings, kafka, sink, settings.data, Metrics())
    thread = threading.Thread(target=job.run)
    thread.start()
    deadline, more = time.monotonic() + _LONGEST_S, _TASKS
    while len(sink.batches) < 3 and time.monotonic() < deadline:  # the first batch alone has no state yet to exercise
        sender.send_all(_task_records(more), 30)
        more += 1
        time.sleep(settings.trigger_s)
    job.stop()
    thread.join()
    sender.close()
    spark.stop()
    process.stdin.close()  # the JVM ends with its input, and writes the archive
    return int(process.wait(_LONGEST_S))


def _task_records(i: int) -> list[Outgoing]:
    now, task_id = int(time.time() * 1000), f"{i * 2654435761 % 2**32:08x}-0000-4000-8000-{i:012x}"
    task = Task(task_id, b"{}", attempt=1, source=Source("tasks.normal", 0, i), submitted_ms=now)
    return completed_task(
        task,
        f"kind-{i % 3}",
        f"node-{i % 4}",
        started_ms=now + i % 50,
        ended_ms=now + i % 3000,
        size=i % 10_000,
        offset=i,
    )


def _ignore(rows: Iterator[object]) -> None:
    for _ in rows:
        pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
