"""The streaming query: events from Kafka to absolute counts in the sink, a micro-batch a trigger.

`Query` starts it, hands each batch to the sink, waits while the sink is away and reports what came too late. A batch
that was cut short anywhere is run again from the checkpoint, with the same rows. It ends with Spark's exception when
Kafka's records or the checkpoint cannot be used; `job` decides what happens then.
"""

import contextlib
import json
import logging
import shutil
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from headrace.errors import Retryable
from headrace.kafka.client import log_throttled
from headrace.settings import Settings
from spark_analytics.counts import statistics
from spark_analytics.metrics import Metrics
from spark_analytics.sinks.base import Sink
from spark_analytics.source import decode, read

log = logging.getLogger(__name__)

_RETRY_S = 1.0
_FINISH_S = 6.0  # of a batch under way when told to stop
CHECKPOINT = "checkpoint-2"  # counted up when the state changes its shape: all is counted anew then


Work = tuple[tuple[int, int], ...]  # stage, tasks done


class Stopping(Exception):
    """The job has been told to stop while the sink was away: the batch is run again at the next start."""


class Query:
    """One run of the query, from its checkpoint in `folder` to its end."""

    def __init__(
        self, spark: SparkSession, settings: Settings, sink: Sink, folder: Path, metrics: Metrics, stop: threading.Event
    ) -> None:
        self._spark, self._settings, self._sink, self._metrics, self._stop = spark, settings, sink, metrics, stop
        self._checkpoint = folder / CHECKPOINT
        self._query: Any = None
        self._seen_batch = -1
        self._seen_work: Work = ()
        self.away: str | None = None  # in words, while the sink cannot be written to
        self.counted_until: float | None = None  # seconds since the epoch: what was in Kafka then has been written
        self.moved_at: float | None = None  # monotonic time at which it last was seen to work

    def start(self) -> None:
        """Starts it; Retryable when the sink is away."""
        self._sink.prepare()
        self.drop_older()
        self._set_aside_unknown()
        counted = statistics(decode(read(self._spark, self._settings), self._settings.topic_prefix))
        self._query = (
            counted.writeStream.outputMode("update")
            .queryName("headrace-analytics")
            .option("checkpointLocation", str(self._checkpoint))
            .trigger(processingTime=f"{int(self._settings.trigger_s * 1000)} milliseconds")
            .foreachBatch(self._write)
            .start()
        )
        self.moved_at = time.monotonic()

    def stop(self) -> None:
        """Lets a batch under way end, if it does so soon, and ends the query; a batch cut short is run again."""
        if self._query is None:
            return
        deadline = time.monotonic() + _FINISH_S
        with contextlib.suppress(Py4JError, PySparkException):  # whoever told us to stop may have told the JVM as well
            while self._query.isActive and self._query.status["isTriggerActive"] and time.monotonic() < deadline:
                time.sleep(0.05)
            self._query.stop()

    @property
    def active(self) -> bool:
        return self._query is not None and bool(self._query.isActive)

    def failure(self) -> str | None:
        """Why it has ended, or None."""
        found = self._query.exception() if self._query is not None else None
        return None if found is None else str(found)

    def watch(self) -> None:
        """Takes up what the query says of itself; called about once a second. Retryable when the sink is away."""
        if (work := self._work()) and work != self._seen_work:  # a batch after an outage may take its minutes
            self.moved_at = time.monotonic()
        self._seen_work = work
        for progress in self._query.recentProgress:
            batch, rows = progress["batchId"], progress["numInputRows"]
            begun = datetime.fromisoformat(progress["timestamp"]).timestamp()
            ended = begun + progress["durationMs"].get("triggerExecution", 0) / 1000
            self.moved_at = max(self.moved_at or 0.0, time.monotonic() - max(0.0, time.time() - ended))
            self.counted_until = begun
            if rows and batch > self._seen_batch:
                late = sum(s["numRowsDroppedByWatermark"] for s in progress["stateOperators"])
                if late:
                    log.warning("%d events came later than the watermark and are not in the counts", late)
                    self._sink.wrote(str(self._query.id), batch, late)
                self._metrics.batch(rows, late, progress["durationMs"].get("triggerExecution", 0) / 1000)
                self._seen_batch = batch

    def _work(self) -> Work:
        """The stages that Spark is at, and how far."""
        tracker = self._spark.sparkContext.statusTracker()
        stages = ((stage, tracker.getStageInfo(stage)) for stage in tracker.getActiveStageIds())
        return tuple((stage, info.numCompletedTasks) for stage, info in stages if info is not None)

    def _write(self, batch: DataFrame, batch_id: int) -> None:
        batch = batch.persist()  # written again after an outage, but never counted again: the state is read once
        try:
            while True:
                try:
                    self._sink.write(batch, batch_id)
                    self._sink.wrote(str(self._query_id()), batch_id, 0)
                    self.away, self.moved_at = None, time.monotonic()
                    return
                except Retryable as e:
                    self.away = str(e)
                    log_throttled("sink", "%s", self.away)
                    if self._stop.wait(_RETRY_S):
                        raise Stopping from None
        except Exception as e:
            if self._stop.is_set() and not isinstance(e, Stopping):
                raise Stopping from None  # what Spark says of a batch that was cut short is long, and means nothing
            raise
        finally:
            with contextlib.suppress(Py4JError):  # the JVM may be gone
                batch.unpersist()

    def _query_id(self) -> str:
        """As the checkpoint has it: the first batch may run before `start` has returned."""
        found: str = json.loads((self._checkpoint / "metadata").read_text())["id"]
        return found

    def drop_older(self) -> None:
        """A checkpoint of an earlier version, whose state this one cannot read."""
        for older in self._checkpoint.parent.glob("checkpoint*"):
            if older != self._checkpoint:
                log.info("dropping %s, the state of an earlier version: counting from the beginning", older.name)
                shutil.rmtree(older, ignore_errors=True)

    def _set_aside_unknown(self) -> None:
        """A checkpoint whose batches the sink has never seen belongs to another database: count from the beginning."""
        commits = self._checkpoint / "commits"
        if not commits.is_dir() or not any(p.name.isdigit() for p in commits.iterdir()):
            return
        if not self._sink.knows(self._query_id()):
            log.warning("the database has none of the counts up to the checkpoint: counting from the beginning")
            self.forget()

    def forget(self) -> None:
        """Drops the checkpoint: all that Kafka holds is counted anew, and counts only grow by it."""
        shutil.rmtree(self._checkpoint, ignore_errors=True)


def is_data_loss(failure: str) -> bool:
    """Whether a failure says that Kafka no longer holds what the checkpoint stands at."""
    return "failOnDataLoss" in failure or "DATA_LOSS" in failure or "offset was changed" in failure
