"""Where the statistics' readiness is decided: the query has counted what Kafka held when it started, and moves; Kafka
and the database answer.

`StatisticsJob` keeps one `Readiness` up to date; `/readyz` gives its reasons through `headrace.process.health`. The
checks answer from memory, because a JVM that hangs would block them.
"""

import threading
import time

from confluent_kafka import KafkaException

from headrace.kafka.client import Kafka
from headrace.kafka.metadata import partitions_of
from headrace.process.health import Health

from .query import Query
from .sinks.base import Sink
from .source import TOPICS

ANSWER_S = 2.0  # for Kafka and the database to answer a probe
_SILENT_S = 8.5  # `/readyz` must fail within 10 s of the loss of an ability, and is looked at once a second
_BATCH_S = 3.0  # an idle query reports at the end of each trigger only


class Readiness:
    """What the job depends on. `waits_for` is the job's own reason, set while no query runs."""

    def __init__(self, kafka: Kafka, sink: Sink, trigger_s: float) -> None:
        self.waits_for: str | None = "it has not started"
        self.query: Query | None = None
        self._kafka, self._sink = kafka, sink
        self._silent_s = max(_SILENT_S, trigger_s + _BATCH_S)
        self._kafka_away: str | None = None
        self._sink_away: str | None = None

    def add_checks(self, health: Health) -> None:
        health.add_check("query", self._check_query)
        health.add_check("kafka", lambda: self._kafka_away)
        health.add_check("database", lambda: self._sink_away)

    @property
    def dependencies_answer(self) -> bool:
        """Whether Kafka and the database answered the last probe."""
        return not (self._kafka_away or self._sink_away)

    def probe_until(self, stop: threading.Event) -> None:
        """Checks regularly that Kafka and the database answer. For health alone: the query retries by itself."""
        admin = self._kafka.admin()
        while not stop.wait(ANSWER_S):
            try:
                partitions_of(admin, [self._kafka.topic(TOPICS[0])], ANSWER_S)
                self._kafka_away = None
            except KafkaException as e:
                self._kafka_away = f"Kafka does not answer: {e.args[0].str()}"
            self._sink_away = self._sink.check()

    def _check_query(self) -> str | None:
        query = self.query
        if self.waits_for or query is None:
            return self.waits_for
        if query.sink_away:
            return query.sink_away
        silent_s = time.monotonic() - (query.moved_at or 0.0)
        if silent_s > self._silent_s:
            return f"Spark has neither ended a micro-batch nor made progress in one for {silent_s:.0f} s"
        if query.counted_until is None:  # a batch has no size limit: the first one counts all that there is
            for_s = time.monotonic() - query.started_at
            return f"its first micro-batch has counted for {for_s:.0f} s what came before"
        return None
