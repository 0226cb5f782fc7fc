"""Keeps the query running: waits for topics and database, starts it, watches it, and starts it again when it ends.

Kafka or the database being away ends nothing: the job waits, `/readyz` says why, and it goes on from the checkpoint.
`run` returns when told to stop; it raises HeadraceError when the query keeps failing although both answer.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import KafkaException
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from headrace.errors import HeadraceError, Retryable
from headrace.kafka.client import Kafka, log_throttled
from headrace.kafka.metadata import partitions_of
from headrace.process.health import Health
from headrace.settings import Settings
from spark_analytics.metrics import Metrics
from spark_analytics.query import CHECKPOINT, Query, is_data_loss
from spark_analytics.sinks.base import Sink
from spark_analytics.source import TOPICS

log = logging.getLogger(__name__)

_LOOK_S = 0.5
_ANSWER_S = 2.0  # Kafka's and the database's answer to a probe
_FAILURES = 5  # in a row, without a batch between them
_SILENT_S = 8.5  # the contract promises 10 s from losing the ability to saying so; looked for once a second
_BATCH_S = 3.0  # an idle query is heard of at the end of each trigger only


class StatisticsJob:
    """The statistics' query over the life of the process."""

    def __init__(
        self, spark: SparkSession, settings: Settings, kafka: Kafka, sink: Sink, folder: Path, metrics: Metrics
    ) -> None:
        self._settings, self._kafka, self._sink = settings, kafka, sink
        self._stop = threading.Event()
        self._new_query: Callable[[], Query] = lambda: Query(spark, settings, sink, folder, metrics, self._stop)
        self._query: Query | None = None
        self._waits_for: str | None = "it has not started"
        self._kafka_away: str | None = None
        self._sink_away: str | None = None

    def add_checks(self, health: Health) -> None:
        """Tells health what this job depends on."""
        health.add("query", self._check_query)
        health.add("kafka", lambda: self._kafka_away)
        health.add("database", lambda: self._sink_away)

    def counted_until(self) -> float | None:
        """Seconds since the epoch: all that Kafka held then is in the sink; None while that is not known."""
        query = self._query
        return None if query is None or query.away else query.counted_until

    def stop(self) -> None:
        """Asks `run` to return; may be called from a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Until `stop`; the batch under way is given up then, and run again at the next start."""
        probes = threading.Thread(target=self._probe, name="probes", daemon=True)
        probes.start()
        failures = 0
        try:
            while not self._stop.is_set():
                if not self._wait_for_topics():
                    return
                moved, failure = self._run_once()
                if failure is None:
                    continue
                failures = 1 if moved else failures + 1
                if is_data_loss(failure):
                    raise HeadraceError(_DATA_LOSS)
                if failures >= _FAILURES and not (self._kafka_away or self._sink_away):
                    raise HeadraceError(
                        f"the query has failed {failures} times in a row, at last by: {_first_line(failure)}"
                    )
                self._waits_for = f"it has failed and starts again: {_first_line(failure)}"
                log_throttled("query", "The query has failed and starts again: %s", _first_line(failure))
                self._stop.wait(min(10.0, 2.0**failures / 2))
        finally:
            self._stop.set()
            probes.join(2 * _ANSWER_S)

    def _run_once(self) -> tuple[bool, str | None]:
        """(whether a batch was written, why it ended or None when it was stopped)."""
        self._query = query = self._new_query()
        begun = time.monotonic()
        try:
            query.start()
            self._waits_for = None
            while query.active and not self._stop.wait(_LOOK_S):
                query.watch()
            if self._stop.is_set():
                query.stop()
                return True, None
            return (query.moved_at or begun) > begun + _LOOK_S, query.failure() or "it ended by itself"
        except Retryable as e:
            self._waits_for = str(e)
            log_throttled("sink", "%s", e)
            query.stop()
            return True, str(e)
        except (PySparkException, Py4JError) as e:
            return self._stop.is_set(), None if self._stop.is_set() else str(e)

    def _wait_for_topics(self) -> bool:
        """Whether all topics are there; False when told to stop first. Spark would end where one is missing."""
        admin = self._kafka.admin()
        wanted = {self._kafka.topic(t) for t in TOPICS}
        while not self._stop.is_set():
            try:
                missing = wanted - set(partitions_of(admin, wanted, _ANSWER_S))
                if not missing:
                    return True
                self._waits_for = f"there is no topic {', '.join(sorted(missing))}: run headrace topics apply"
            except KafkaException as e:
                self._waits_for = f"Kafka does not answer: {e.args[0].str()}"
            log_throttled("topics", "Waiting: %s", self._waits_for)
            self._stop.wait(_LOOK_S)
        return False

    def _probe(self) -> None:
        """Asks Kafka and the database whether they answer, for health alone: the query finds out by itself."""
        admin = self._kafka.admin()
        while not self._stop.wait(_ANSWER_S):
            try:
                partitions_of(admin, [self._kafka.topic(TOPICS[0])], _ANSWER_S)
                self._kafka_away = None
            except KafkaException as e:
                self._kafka_away = f"Kafka does not answer: {e.args[0].str()}"
            self._sink_away = self._sink.check()

    def _check_query(self) -> str | None:
        query = self._query
        if self._waits_for or query is None:
            return self._waits_for
        if query.away:
            return query.away
        # From memory alone: a JVM that hangs would keep whoever asks it waiting.
        silent_s = time.monotonic() - (query.moved_at or 0.0)
        if silent_s > max(_SILENT_S, self._settings.trigger_s + _BATCH_S):
            return f"Spark has neither ended a micro-batch nor got on with one for {silent_s:.0f} s"
        return None


_DATA_LOSS = (
    "Kafka no longer holds the events that the statistics' checkpoint stands at: was a lifecycle topic deleted, made "
    f"anew or trimmed? If so, remove the folder `analytics/{CHECKPOINT}` of this role's data directory: what Kafka "
    "still holds is counted anew, and what the database has already is kept"
)


def _first_line(text: str) -> str:
    return text.strip().split("\n")[0][:400]
