"""Keeps the query running: waits for the topics and the database, starts it, watches it, and restarts it when it ends.

An outage of Kafka or of the database ends nothing: the job waits, `/readyz` gives the reason (see `readiness`), and the
query goes on from its checkpoint. `run` returns after `stop`; it raises UsageError when Kafka does not hold the
checkpoint's offsets any more, and HeadraceError when the query keeps failing although both answer.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import KafkaException
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from headrace.errors import HeadraceError, Retryable, UsageError
from headrace.kafka.client import Kafka
from headrace.kafka.metadata import partitions_of
from headrace.process.health import Health
from headrace.process.throttled_log import log_throttled
from headrace.settings import Settings

from .checkpoint import pass_over_damage
from .lost_offsets import check_place
from .metrics import Metrics
from .query import CHECKPOINT, Query, is_data_loss
from .readiness import ANSWER_S, Readiness
from .sinks.base import Sink
from .source import TOPICS

log = logging.getLogger(__name__)

_WATCH_S = 0.5
_FAILURES = 5  # in a row, without a batch between them


class StatisticsJob:
    """The statistics' query over the life of the process."""

    def __init__(
        self, spark: SparkSession, settings: Settings, kafka: Kafka, sink: Sink, folder: Path, metrics: Metrics
    ) -> None:
        """`folder` keeps the checkpoint."""
        self._kafka, self._checkpoint = kafka, folder / CHECKPOINT
        self._stop = threading.Event()
        self._is_damaged = False  # whether Spark has met records that it cannot read
        self._new_query: Callable[[], Query] = lambda: Query(
            spark, settings, sink, folder, metrics, self._stop, batch_a_fetch=self._is_damaged
        )
        self._readiness = Readiness(kafka, sink, settings.trigger_s)

    def add_checks(self, health: Health) -> None:
        """Registers the checks of everything that this job depends on."""
        self._readiness.add_checks(health)

    def counted_until(self) -> float | None:
        """Seconds since the epoch: everything that Kafka held then is in the sink. None while that is unknown."""
        query = self._readiness.query
        return None if query is None or query.sink_away else query.counted_until

    def stop(self) -> None:
        """Asks `run` to return; may be called from a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Runs until `stop`, which gives up the current batch; it runs again at the next start."""
        probes = threading.Thread(target=self._readiness.probe_until, args=(self._stop,), name="probes", daemon=True)
        probes.start()
        failures = 0
        try:
            while not self._stop.is_set():
                if not self._wait_for_topics():
                    return
                moved, failure = self._run_query()
                if failure is None:
                    continue
                failures = 1 if moved else failures + 1
                if is_data_loss(failure):
                    self._say_what_is_lost()
                if self._passes_over_damage(failure):
                    failures = 0
                    continue
                if failures >= _FAILURES and self._readiness.dependencies_answer:
                    raise HeadraceError(
                        f"the query failed {failures} times in a row, last with: {_first_line(failure)}"
                    )
                self._readiness.waits_for = f"it failed and will be restarted: {_first_line(failure)}"
                log_throttled("query", "The query failed and will be restarted: %s", _first_line(failure))
                self._stop.wait(min(10.0, 2.0**failures / 2))
        finally:
            self._stop.set()
            probes.join(2 * ANSWER_S)

    def _say_what_is_lost(self) -> None:
        """Spark says that records are gone: UsageError with their offsets. If Kafka is away, the next run asks."""
        with contextlib.suppress(Retryable):
            check_place(self._kafka, self._checkpoint)
            raise UsageError(_DATA_LOSS)

    def _passes_over_damage(self, failure: str) -> bool:
        """Whether the checkpoint was moved over records that Spark cannot read, so that the query can go on."""
        if "Received exception when fetching" not in failure and "org.apache.kafka" not in failure:
            return False
        try:
            moved = pass_over_damage(self._kafka, self._checkpoint, failure)
        except (KafkaException, Retryable, OSError, ValueError) as e:
            log_throttled("damage", "Whether the log is damaged is not known: %s", e)
            return False
        self._is_damaged |= bool(moved)
        for sentence in moved:
            log.warning("%s", sentence)
        return bool(moved)

    def _run_query(self) -> tuple[bool, str | None]:
        """(whether a batch was written, why the query ended, or None after `stop`)."""
        self._readiness.query = query = self._new_query()
        begun = time.monotonic()
        try:
            query.prepare()
            check_place(self._kafka, self._checkpoint)
            query.start()
            self._readiness.waits_for = None
            while query.active and not self._stop.wait(_WATCH_S):
                query.read_progress()
            if self._stop.is_set():
                query.stop()
                return True, None
            return (query.moved_at or begun) > begun + _WATCH_S, query.failure() or "it ended by itself"
        except Retryable as e:
            self._readiness.waits_for = str(e)
            log_throttled("sink", "%s", e)
            query.stop()
            return True, str(e)
        except (PySparkException, Py4JError) as e:
            return self._stop.is_set(), None if self._stop.is_set() else str(e)

    def _wait_for_topics(self) -> bool:
        """Returns True when all topics exist, False after `stop`. Spark would end the query at a missing topic."""
        admin = self._kafka.admin()
        wanted = {self._kafka.topic(t) for t in TOPICS}
        while not self._stop.is_set():
            try:
                missing = wanted - set(partitions_of(admin, wanted, ANSWER_S))
                if not missing:
                    return True
                reason = f"topics are missing ({', '.join(sorted(missing))}): run headrace topics apply"
            except KafkaException as e:
                reason = f"Kafka does not answer: {e.args[0].str()}"
            self._readiness.waits_for = reason
            log_throttled("topics", "Waiting: %s", reason)
            self._stop.wait(_WATCH_S)
        return False


_DATA_LOSS = (
    "Kafka no longer holds the events at the statistics' checkpoint: was a lifecycle topic deleted, recreated or "
    f"trimmed? If so, remove the folder `analytics/{CHECKPOINT}` of this role's data directory: the statistics then "
    "count what Kafka still holds from the beginning, and keep what the database already has"
)


def _first_line(text: str) -> str:
    return text.strip().split("\n")[0][:400]
