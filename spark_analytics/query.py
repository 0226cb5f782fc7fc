"""The streaming query: events from Kafka to absolute counts in the sink, one micro-batch a trigger.

`StatisticsJob` starts a `Query`, which hands each batch to the sink, waits while the sink is away and reports late
events. A batch that was cut short at any point runs again from the checkpoint, with the same rows. The query ends with
Spark's exception when Kafka's records or the checkpoint cannot be used; the job decides what happens then.
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
from headrace.process.throttled_log import log_throttled
from headrace.settings import Settings

from .counts import count_events
from .decoder import decode_events
from .metrics import Metrics
from .sinks.base import Sink
from .source import read_topics

log = logging.getLogger(__name__)

_RETRY_S = 1.0
_FINISH_S = 6.0  # for the current batch to end after a stop request
CHECKPOINT = "checkpoint-2"  # raised when the state changes its shape: everything is then counted anew


TaskProgress = tuple[tuple[int, int], ...]  # (stage, tasks done) of each active stage


class Stopping(Exception):
    """The job was asked to stop while the sink was away: the batch runs again at the next start."""


class Query:
    """One run of the query, from its checkpoint in `folder` to its end. Used by one thread, and read by health checks.

    `sink_away` says why the sink cannot be written to, or is None. `counted_until` (seconds since the epoch):
    everything that Kafka held then is in the sink; None before the first trigger has ended. `started_at` and `moved_at`
    (monotonic seconds): when the query was started, and when it was last seen to work.
    """

    def __init__(
        self,
        spark: SparkSession,
        settings: Settings,
        sink: Sink,
        folder: Path,
        metrics: Metrics,
        stop: threading.Event,
        *,
        batch_a_fetch: bool = False,
    ) -> None:
        """`batch_a_fetch`: as `read_topics` has it, for a log that is damaged."""
        self._spark, self._settings, self._sink, self._metrics, self._stop = spark, settings, sink, metrics, stop
        self._checkpoint = folder / CHECKPOINT
        self._batch_a_fetch = batch_a_fetch
        self._query: Any = None
        self._last_batch = -1
        self._last_progress: TaskProgress = ()
        self.sink_away: str | None = None
        self.counted_until: float | None = None
        self.started_at = time.monotonic()
        self.moved_at: float | None = None

    def prepare(self) -> None:
        """Call before `start`: makes the sink's tables, and drops checkpoints that this query cannot go on from.

        Retryable when the sink is away.
        """
        self._sink.prepare()
        self.drop_older_checkpoints()
        self._drop_foreign_checkpoint()

    def start(self) -> None:
        """Starts the query, from the checkpoint or from the log's beginning."""
        events = decode_events(
            read_topics(self._spark, self._settings, batch_a_fetch=self._batch_a_fetch), self._settings.topic_prefix
        )
        self._query = (
            count_events(events)
            .writeStream.outputMode("update")
            .queryName("headrace-analytics")
            .option("checkpointLocation", str(self._checkpoint))
            .trigger(processingTime=f"{int(self._settings.trigger_s * 1000)} milliseconds")
            .foreachBatch(self._write_batch)
            .start()
        )
        self.started_at = self.moved_at = time.monotonic()

    def stop(self) -> None:
        """Gives the current batch `_FINISH_S` to end, then ends the query. A batch cut short runs again."""
        if self._query is None:
            return
        deadline = time.monotonic() + _FINISH_S
        with contextlib.suppress(Py4JError, PySparkException):  # the signal that stops us may have ended the JVM too
            while self._query.isActive and self._query.status["isTriggerActive"] and time.monotonic() < deadline:
                time.sleep(0.05)
            self._query.stop()

    @property
    def active(self) -> bool:
        return self._query is not None and bool(self._query.isActive)

    def failure(self) -> str | None:
        """Spark's exception as text once the query has failed, else None."""
        found = self._query.exception() if self._query is not None else None
        return None if found is None else str(found)

    def read_progress(self) -> None:
        """Updates times and metrics from Spark's progress reports; call it about once a second.

        Retryable when late events cannot be reported because the sink is away.
        """
        progress_now = self._task_progress()
        if progress_now and progress_now != self._last_progress:  # a batch after an outage may take minutes
            self.moved_at = time.monotonic()
        self._last_progress = progress_now
        for progress in self._query.recentProgress:
            batch, rows = progress["batchId"], progress["numInputRows"]
            begun = datetime.fromisoformat(progress["timestamp"]).timestamp()
            ended = begun + progress["durationMs"].get("triggerExecution", 0) / 1000
            self.moved_at = max(self.moved_at or 0.0, time.monotonic() - max(0.0, time.time() - ended))
            self.counted_until = begun
            if rows and batch > self._last_batch:
                late = sum(s["numRowsDroppedByWatermark"] for s in progress["stateOperators"])
                if late:
                    log.warning("%d events came later than the watermark and are not in the counts", late)
                    self._sink.record_batch(str(self._query.id), batch, late)
                self._metrics.add_batch(rows, late, progress["durationMs"].get("triggerExecution", 0) / 1000)
                self._last_batch = batch

    def _task_progress(self) -> TaskProgress:
        tracker = self._spark.sparkContext.statusTracker()
        stages = ((stage, tracker.getStageInfo(stage)) for stage in tracker.getActiveStageIds())
        return tuple((stage, info.numCompletedTasks) for stage, info in stages if info is not None)

    def _write_batch(self, batch: DataFrame, batch_id: int) -> None:
        batch = batch.persist()  # an outage repeats the write, not the counting: the state is read once
        try:
            while True:
                try:
                    self._sink.write(batch, batch_id)
                    self._sink.record_batch(str(self._query_id()), batch_id, 0)
                    self.sink_away, self.moved_at = None, time.monotonic()
                    return
                except Retryable as e:
                    self.sink_away = str(e)
                    log_throttled("sink", "%s", self.sink_away)
                    if self._stop.wait(_RETRY_S):
                        raise Stopping from None
        except Exception as e:
            if self._stop.is_set() and not isinstance(e, Stopping):
                raise Stopping from None  # Spark's text about a batch that we cut short is long and means nothing
            raise
        finally:
            with contextlib.suppress(Py4JError):  # the JVM may be gone
                batch.unpersist()

    def _query_id(self) -> str:
        """From the checkpoint: the first batch may run before `start` has returned."""
        found: str = json.loads((self._checkpoint / "metadata").read_text())["id"]
        return found

    def drop_older_checkpoints(self) -> None:
        """Removes checkpoints of earlier versions, whose state this version cannot read."""
        for older in self._checkpoint.parent.glob("checkpoint*"):
            if older != self._checkpoint:
                log.info("dropping %s, the state of an earlier version: counting from the beginning", older.name)
                shutil.rmtree(older, ignore_errors=True)

    def _drop_foreign_checkpoint(self) -> None:
        """Removes a checkpoint whose batches are not in the sink: it belongs to another database.

        Everything that Kafka holds is then counted from the beginning; counts in the sink only grow by it.
        """
        commits = self._checkpoint / "commits"
        if not commits.is_dir() or not any(p.name.isdigit() for p in commits.iterdir()):
            return
        if not self._sink.has_checkpoint(self._query_id()):
            log.warning("the database has none of the checkpoint's counts: counting from the beginning")
            shutil.rmtree(self._checkpoint, ignore_errors=True)


def is_data_loss(failure: str) -> bool:
    """Whether a failure says that Kafka no longer holds the records at the checkpoint's offsets."""
    return "failOnDataLoss" in failure or "DATA_LOSS" in failure or "offset was changed" in failure
