"""The statistics' process: `headrace analytics`. Wires query, audit and health together and runs until told to stop.

`main` is called by the command line with checked settings. UsageError for what a person can put right; a Kafka or a
database that is away is none of it. A kill at any time is harmless: the checkpoint and absolute counts see to it.
"""

import contextlib
import fcntl
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from py4j.protocol import Py4JError
from pyspark.sql import SparkSession

from headrace.child.process_tree import kill_trees
from headrace.errors import UsageError
from headrace.kafka.client import Kafka
from headrace.process.health import Health
from headrace.process.signals import on_signals
from headrace.settings import Settings
from spark_analytics.audit.auditor import Auditor
from spark_analytics.audit.store import MySqlAuditStore
from spark_analytics.health_http import HealthServer
from spark_analytics.job import StatisticsJob
from spark_analytics.metrics import Metrics
from spark_analytics.session import jvm_pid, start_session
from spark_analytics.sinks import sink_of
from spark_analytics.sinks.mysql import MySqlSink

log = logging.getLogger(__name__)

_LEFT_OVER_S = 10.0
_STOPS = (signal.SIGTERM, signal.SIGINT)


def main(settings: Settings) -> int:
    """Runs until SIGTERM or SIGINT; the exit code."""
    if not settings.kafka:
        raise UsageError("HEADRACE_KAFKA is empty: give bootstrap servers, such as 127.0.0.1:9092")
    sink = sink_of(settings.database)
    folder = settings.data.absolute() / "analytics"
    folder.mkdir(parents=True, exist_ok=True)
    for number in _STOPS:  # Spark takes its time to start, and nothing has begun that had to be ended in order
        signal.signal(number, lambda *_: sys.exit(0))
    with _alone(folder) as jvm_file:
        health, metrics = Health(), Metrics()
        health.add("spark", lambda: "it is starting")
        server = HealthServer(settings, health, metrics)
        try:
            spark = start_session(settings, folder)
            jvm_file.write_text(str(jvm_pid(spark)))
            health.add("spark", lambda: None)
            kafka = Kafka(settings, "headrace-analytics")
            job = StatisticsJob(spark, settings, kafka, sink, folder, metrics)
            job.add_checks(health)
            on_signals(_STOPS, job.stop)
            auditor = None
            if isinstance(sink, MySqlSink):
                store = MySqlAuditStore(sink.database)
                auditor = Auditor(kafka, store, folder, metrics, settings.audit_s, job.counted_until)
                auditor.start()
            try:
                job.run()
            finally:
                if auditor is not None:
                    auditor.stop()
                _end(spark)
        finally:
            server.close()
    return 0


@contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """Holds the folder's lock; ends the JVM of a run that was killed, which may not have noticed yet.

    Gives the file that the JVM's pid belongs in. UsageError when another run has the folder.
    """
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"another headrace analytics works in {folder}: stop it, or give HEADRACE_DATA another directory"
            ) from None
        jvm = folder / "jvm.pid"
        _end_left_over(jvm, str(folder))
        yield jvm
        jvm.unlink(missing_ok=True)
    finally:
        os.close(lock)


def _end_left_over(file: Path, mark: str) -> None:
    """`mark` stands in the JVM's command line, which tells it from whoever else has got its pid."""
    try:
        pid = int(file.read_text())
        if mark not in Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"):
            return
    except (OSError, ValueError):
        return
    kill_trees([pid])
    deadline = time.monotonic() + _LEFT_OVER_S
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)


def _end(spark: SparkSession) -> None:
    with contextlib.suppress(Py4JError, OSError):  # a signal to our whole group has ended the JVM already
        spark.stop()
