"""What Spark's JVM learnt in one first run, kept for all later ones: they start, and count, in a fraction of the time.

Spark's class path has hundreds of jars, and finding and checking some 10,000 classes in them is most of what a start
costs; a backlog is counted first by code that Java knows nothing about. `train` runs the real query once over a broker
and has the JVM write an archive as it exits: of the classes and, from Java 25 on, of what was seen of their methods.
Without an archive, or with one that does not fit (another Java, other jars), everything works as well, only slower.
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

from headrace.contract.lifecycle import received_event, started_event
from headrace.contract.outcome import Outcome
from headrace.contract.records import Outgoing, Source
from headrace.contract.task import Task
from headrace.kafka.client import Kafka, Sender
from headrace.settings import Settings
from infra.local.artifacts import artifact
from infra.local.java import SPARKS, java_version, spark_java_home

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_LONGEST_S = 300.0
_TASKS = 40_000  # to learn from, in slices
_SLICE = 4_000


def class_archive() -> Path:
    """Where the archive of this environment's Spark on this Java lies: beside the packages, and gone with them."""
    home, release = spark_java_home(), spark_java_home() / "release"
    fits = (str(home), release.read_text() if release.exists() else "", version("pyspark"), connector())
    digest = hashlib.sha256("\0".join(fits).encode()).hexdigest()
    return Path(sys.prefix) / f"headrace-spark-{digest[:12]}.archive"


def options() -> list[str]:
    """What the JVM is told to use the archive, if there is one."""
    if not class_archive().exists():
        return []
    if _keeps_profiles():  # JDK-8364929: Java 25 mixes up stored adapters, sees it and warns on stdout
        return [f"-XX:AOTCache={class_archive()}", "-XX:+UnlockDiagnosticVMOptions", "-XX:-AOTAdapterCaching"]
    return [f"-XX:SharedArchiveFile={class_archive()}"]


def environ() -> dict[str, str]:
    """What a process that starts Spark's driver needs in its environment: Java, the archive and what fits to it."""
    theirs = os.environ.get("SPARK_SUBMIT_OPTS", "")
    return _java() | {"SPARK_SUBMIT_OPTS": " ".join((*options(), theirs)).strip()}


def connector() -> str:
    """Spark's Kafka connector, as HEADRACE_SPARK_JARS takes it."""
    return ",".join(sorted(str(p) for p in artifact("spark-kafka").glob("*.jar")))


def train(bootstrap: str) -> None:
    """Makes the archive, over a broker whose topics are there. CalledProcessError or TimeoutExpired when it fails."""
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
    """The connector stands at the end of the class path, as only what the JVM starts with gets into the archive."""
    return {"JAVA_HOME": str(spark_java_home()), "SPARK_DIST_CLASSPATH": connector().replace(",", os.pathsep)}


def _keeps_profiles() -> bool:
    return (java_version(spark_java_home() / "bin" / "java") or 0) >= SPARKS


def main(arguments: list[str]) -> int:
    """The training itself, in a process of its own: events through the query, and an orderly end of the JVM."""
    from spark_analytics.job import StatisticsJob
    from spark_analytics.metrics import Metrics
    from spark_analytics.session import start_session
    from spark_analytics.sinks.memory import MemorySink

    class TrainingSink(MemorySink):
        """Has rows brought to Python workers as well, as a database does."""

        def write(self, batch: "DataFrame", batch_id: int) -> None:
            super().write(batch, batch_id)
            batch.foreachPartition(_ignore)

    [bootstrap, folder] = arguments
    settings = replace(Settings(), kafka=bootstrap, spark_jars=connector(), trigger_s=0.2, data=Path(folder))
    kafka, sink = Kafka(settings, "train"), TrainingSink()
    sender = Sender(kafka)
    for first in range(0, _TASKS, _SLICE):
        sender.send_all([e for i in range(first, first + _SLICE) for e in _events(i)], 60)
    spark = start_session(settings, settings.data)
    process = spark.sparkContext._gateway.proc  # type: ignore[union-attr]
    job = StatisticsJob(spark, settings, kafka, sink, settings.data, Metrics())
    thread = threading.Thread(target=job.run)
    thread.start()
    deadline, more = time.monotonic() + _LONGEST_S, _TASKS
    while len(sink.batches) < 3 and time.monotonic() < deadline:  # the first shows least: there is no state yet
        sender.send_all(list(_events(more)), 30)
        more += 1
        time.sleep(settings.trigger_s)
    job.stop()
    thread.join()
    sender.close()
    spark.stop()
    process.stdin.close()  # its JVM ends with its input, and writes the archive then
    return int(process.wait(_LONGEST_S))


def _events(i: int) -> Iterator[Outgoing]:
    """A task's, from its being received to its result."""
    now, name, node = int(time.time() * 1000), f"kind-{i % 3}", f"node-{i % 4}"
    task = Task(
        f"{i * 2654435761 % 2**32:08x}-0000-4000-8000-{i:012x}",
        b"{}",
        attempt=1,
        source=Source("tasks.normal", 0, i),
        submitted_ms=now,
    )
    yield received_event(task, name, "demo", "http")
    yield started_event(task, name, "demo", node, "boot")
    ended = Outcome(
        task.id,
        "completed",
        b"",
        attempt=1,
        boot="boot",
        node=node,
        source=task.source,
        submitted_ms=now,
        name=name,
        directory="demo",
        started_ms=now + i % 50,
        ended_ms=now + i % 3000,
        offset=i,
    )
    yield ended.completed_event(f"demo/{task.id}.json", i % 10_000, "ab" * 32)


def _ignore(rows: Iterator[object]) -> None:
    for _ in rows:
        pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
