"""A run of the real query over invented events, for the class archive of Spark's JVM (`infra/local/spark_archive.py`).

Runs in a process of its own, because the JVM writes its archive when it ends. The arguments are the bootstrap servers
of a broker that has the topics, the jars of Spark's Kafka connector, and a folder for the query's data.
"""

import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pyspark.sql import DataFrame

from headrace.contract.records import Outgoing, Source
from headrace.contract.task import Task
from headrace.kafka.client import Kafka
from headrace.kafka.sender import Sender
from headrace.settings import Settings

from .job import StatisticsJob
from .metrics import Metrics
from .sample_records import completed_task
from .session import start_session
from .sinks.memory import MemorySink

_LONGEST_S = 300.0
_TASKS = 40_000  # in slices
_SLICE = 4_000


class TrainingSink(MemorySink):
    """Sends rows to Python workers too, as the MySQL sink does."""

    def write(self, batch: DataFrame, batch_id: int) -> None:
        super().write(batch, batch_id)
        batch.foreachPartition(_ignore)


def main(arguments: list[str]) -> int:
    """Sends events through the query, then ends the JVM in an orderly way; returns its exit code."""
    [bootstrap, connector, folder] = arguments
    settings = replace(Settings(), kafka=bootstrap, spark_jars=connector, trigger_s=0.2, data=Path(folder))
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
