"""The statistics' process, `headrace analytics`: wires query, audit and health together and runs until a stop signal.

The command line calls `main` with checked settings. UsageError for a wrong setting; an outage of Kafka or the database
is waited out. A kill at any time is harmless, because of the checkpoint and the absolute counts.
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
from headrace.errors import HeadraceError, UsageError
from headrace.kafka.client import Kafka
from headrace.kafka.log_notes import LogNotes
from headrace.process.health import Health
from headrace.process.signals import on_signals
from headrace.settings import Settings

from .audit.auditor import Auditor
from .audit.store import MySqlAuditStore
from .audit.supervisor import AuditSupervisor
from .health_http import HealthServer
from .job import StatisticsJob
from .metrics import Metrics
from .session import jvm_pid, start_session
from .sinks import sink_of
from .sinks.base import Sink
from .sinks.mysql import MySqlSink
from .source import TOPICS as SOURCE_TOPICS

log = logging.getLogger(__name__)

_LEFT_OVER_S = 10.0
_STOPS = (signal.SIGTERM, signal.SIGINT)


def main(settings: Settings) -> int:
    """Runs until SIGTERM or SIGINT; returns the exit code. HeadraceError when the query keeps failing."""
    if not settings.kafka:
        raise UsageError("HEADRACE_KAFKA is empty: give bootstrap servers, such as 127.0.0.1:9092")
    sink = sink_of(settings.database)
    folder = settings.make_data_folder("analytics").absolute()
    for number in _STOPS:  # while Spark starts, nothing needs an orderly end
        signal.signal(number, lambda *_: sys.exit(0))
    with _locked(folder) as jvm_file:
        health, metrics = Health(), Metrics()
        health.add_check("spark", lambda: "it is starting")
        server = HealthServer(settings, health, metrics)
        try:
            spark = start_session(settings, folder)
            jvm_file.write_text(str(jvm_pid(spark)))
            health.add_check("spark", lambda: None)
            kafka = Kafka(settings, "headrace-analytics")
            job = StatisticsJob(spark, settings, kafka, sink, folder, metrics)
            job.add_checks(health)
            log_notes = LogNotes(kafka, (*SOURCE_TOPICS, "tasks.running", "results"), metrics.registry)
            health.add_notes(log_notes.notes)
            log_notes.start()
            on_signals(_STOPS, job.stop)
            try:
                with _audited(settings, kafka, sink, folder, metrics, job, health):
                    job.run()
            finally:
                log_notes.close()
                _end(spark)
        finally:
            server.close()
    return 0


@contextmanager
def _audited(
    settings: Settings, kafka: Kafka, sink: Sink, folder: Path, metrics: Metrics, job: StatisticsJob, health: Health
) -> Iterator[None]:
    """Runs the audit meanwhile, if there is a database for it. HeadraceError at the end when the audit has hung."""
    if not isinstance(sink, MySqlSink):
        yield
        return
    store, hung = MySqlAuditStore(sink.database), list[str]()

    def on_hung(words: str) -> None:
        log.error("the audit %s: the statistics end, to be started again", words)
        hung.append(words)
        job.stop()

    supervisor = AuditSupervisor(
        lambda on_step: Auditor(kafka, store, folder, metrics, settings.audit_s, job.counted_until, on_step),
        settings.audit_s,
        on_hung=on_hung,
    )
    health.add_check("audit", supervisor.check)
    supervisor.start()
    try:
        yield
    finally:
        supervisor.stop()
    if hung:
        raise HeadraceError(f"the audit {hung[0]}")


@contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    """Holds the folder's lock, and ends a JVM that a killed run left behind.

    Yields the file for the JVM's pid. UsageError when another run holds the lock.
    """
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"another headrace analytics uses {folder}: stop it, or give HEADRACE_DATA another directory"
            ) from None
        jvm = folder / "jvm.pid"
        _end_left_over(jvm, str(folder))
        yield jvm
        jvm.unlink(missing_ok=True)
    finally:
        os.close(lock)


def _end_left_over(file: Path, mark: str) -> None:
    """Kills the process in `file` if `mark` is in its command line: another process may have the pid by now."""
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
    with contextlib.suppress(Py4JError, OSError):  # a signal to our whole process group may have ended the JVM
        spark.stop()
