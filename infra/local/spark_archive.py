"""Spark's loaded classes, kept from one first run, so that every later JVM of it starts in a fraction of the time.

Spark's class path has hundreds of jars, and finding and checking some 10,000 classes in them is most of what a start
costs. `train` runs the real query once over a broker and has the JVM write an archive as it exits. Without an archive,
or with one that does not fit (another Java, other jars), everything works as well, only slower.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

from headrace.kafka import Kafka, Sender
from headrace.messages import Task, received
from headrace.records import Source
from headrace.settings import Settings
from infra.local.artifacts import artifact
from infra.local.java import java_home

_LONGEST_S = 300.0


def class_archive() -> Path:
    """Where the archive of this environment's Spark on this Java lies: beside the packages, and gone with them."""
    release = java_home() / "release"
    of = f"{java_home()}\0{release.read_text() if release.exists() else ''}"
    return Path(sys.prefix) / f"headrace-spark-{hashlib.sha256(of.encode()).hexdigest()[:12]}.jsa"


def environ() -> dict[str, str]:
    """What a process that starts Spark's driver needs in its environment: Java, and the archive if there is one."""
    found = {"JAVA_HOME": str(java_home())}
    if class_archive().exists():
        theirs = os.environ.get("SPARK_SUBMIT_OPTS", "")
        found["SPARK_SUBMIT_OPTS"] = f"-XX:SharedArchiveFile={class_archive()} {theirs}".strip()
    return found


def connector() -> str:
    """Spark's Kafka connector, as HEADRACE_SPARK_JARS takes it."""
    return ",".join(sorted(str(p) for p in artifact("spark-kafka").glob("*.jar")))


def train(bootstrap: str) -> None:
    """Makes the archive, over a broker whose topics are there. CalledProcessError or TimeoutExpired when it fails."""
    archive = class_archive()
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".train-") as name:
        made = Path(name) / "archive"
        own = {"JAVA_HOME": str(java_home()), "SPARK_SUBMIT_OPTS": f"-XX:ArchiveClassesAtExit={made}"}
        command = [sys.executable, "-m", "infra.local.spark_archive", bootstrap, name]
        subprocess.run(command, check=True, timeout=_LONGEST_S, env={**os.environ, **own}, capture_output=True)
        if made.exists():
            made.replace(archive)


def main(arguments: list[str]) -> int:
    """The training itself, in a process of its own: a record through the query, and an orderly end of the JVM."""
    from spark_analytics.job import Job
    from spark_analytics.metrics import Metrics
    from spark_analytics.session import start_session
    from spark_analytics.sinks.memory import MemorySink

    [bootstrap, folder] = arguments
    settings = replace(Settings(), kafka=bootstrap, spark_jars=connector(), spark_memory="512m", trigger_s=0.2,
                       data=Path(folder))  # fmt: skip
    kafka, sink = Kafka(settings, "train"), MemorySink()
    sender = Sender(kafka)
    spark = start_session(settings, settings.data)
    process = spark.sparkContext._gateway.proc  # type: ignore[union-attr]
    job = Job(spark, settings, kafka, sink, settings.data, Metrics())
    thread = threading.Thread(target=job.run)
    thread.start()
    deadline = time.monotonic() + _LONGEST_S
    while len(sink.batches) < 3 and time.monotonic() < deadline:  # the first shows least: there is no state yet
        task_id = f"{len(sink.batches):08x}-0000-4000-8000-000000000000"
        task = Task(task_id, b"{}", 1, Source("tasks.normal", 0, 0), int(time.time() * 1000))
        sender.send_all([received(task, "prime", "demo", "http")], 30)
        time.sleep(settings.trigger_s)
    job.stop()
    thread.join()
    sender.close()
    spark.stop()
    process.stdin.close()  # its JVM ends with its input, and writes the archive then
    return int(process.wait(_LONGEST_S))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
