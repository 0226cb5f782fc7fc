"""When Kafka does not hold the events at the checkpoint any more, the statistics stop, and say what is lost and what to
do, as every other role does."""

import json
import shutil
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from pyspark.sql import DataFrame, SparkSession

from headrace.errors import UsageError
from headrace.kafka.client import Kafka
from headrace.kafka.reading import end_offsets
from headrace.settings import Settings
from spark_analytics.job import StatisticsJob
from spark_analytics.lost_offsets import check_place
from spark_analytics.metrics import Metrics
from spark_analytics.query import CHECKPOINT
from spark_analytics.sinks.memory import MemorySink
from spark_analytics.source import TOPICS
from tests.rigs.lifecycle import Sends, flat, stories
from tests.rigs.topics import PARTITIONS

pytestmark = pytest.mark.timeout(600)
TOPIC = "lifecycle.received"


def ends(settings: Settings, topic: str = TOPIC) -> dict[int, int]:
    kafka = Kafka(settings, "test")
    return {p: at for (_, p), at in end_offsets(kafka, kafka.admin(), [(topic, p) for p in range(PARTITIONS)]).items()}


def delete_records(settings: Settings, up_to: dict[int, int]) -> None:
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    wanted = [TopicPartition(settings.topic_prefix + TOPIC, p, at) for p, at in up_to.items()]
    for answer in admin.delete_records(wanted).values():
        answer.result(30)


def read_offsets(settings: Settings) -> dict[str, dict[str, int]]:
    """Where a checkpoint has read to that has read everything."""
    return {settings.topic_prefix + t: {str(p): at for p, at in ends(settings, t).items()} for t in TOPICS}


def write_checkpoint(folder: Path, batches: Iterable[dict[str, dict[str, int]]], committed: int) -> Path:
    for name in ("offsets", "commits"):
        (folder / name).mkdir(parents=True)
    for number, offsets in enumerate(batches):
        (folder / "offsets" / str(number)).write_text(f"v1\n{{}}\n{json.dumps(offsets)}")
        if number < committed:
            (folder / "commits" / str(number)).write_text("v1\n{}")
    return folder


@pytest.fixture
def told(kafka_settings: Settings, topics: str) -> None:
    send = Sends(kafka_settings)
    send(flat(stories(40)))
    send.close()


def test_a_checkpoint_is_held_by_the_log_until_what_it_reads_next_is_deleted(
    kafka_settings: Settings, told: None, tmp_path: Path
) -> None:
    kafka, all_read = Kafka(kafka_settings, "test"), read_offsets(kafka_settings)
    none_read = {t: dict.fromkeys(found, 0) for t, found in all_read.items()}
    committed = write_checkpoint(tmp_path / "a", [none_read, all_read], 2)
    planned = write_checkpoint(tmp_path / "b", [none_read, all_read], 1)  # the second batch runs again from the first
    damaged = write_checkpoint(tmp_path / "c", [none_read], 1)
    (damaged / "offsets" / "0").write_text("")
    for checkpoint in (committed, planned, damaged, tmp_path / "none"):
        check_place(kafka, checkpoint)
    found = ends(kafka_settings)
    delete_records(kafka_settings, found)
    for checkpoint in (committed, damaged, tmp_path / "none"):
        check_place(kafka, checkpoint)
    with pytest.raises(UsageError) as e:
        check_place(kafka, planned)
    for p, end in found.items():
        lost = f"{kafka_settings.topic_prefix}{TOPIC}, partition {p}: the offsets 0 to {end - 1} were deleted before"
        assert (lost in str(e.value)) == (end > 0)
    assert f"remove the folder {planned}" in str(e.value)
    assert "lifecycle.started" not in str(e.value)


def test_a_log_made_anew_and_a_new_partition_without_its_beginning_are_lost_places(
    kafka_settings: Settings, told: None, tmp_path: Path
) -> None:
    kafka, all_read = Kafka(kafka_settings, "test"), read_offsets(kafka_settings)
    longer = {t: {p: at + 5 for p, at in found.items()} for t, found in all_read.items()}
    with pytest.raises(
        UsageError, match=r"lifecycle\.started, partition 0: its offset \d+ lies behind the log's end \d+"
    ):
        check_place(kafka, write_checkpoint(tmp_path / "a", [longer], 1))
    more = {t: found | {"99": 1} for t, found in all_read.items()}
    with pytest.raises(UsageError, match=r"tasks\.dead, partition 99: it has been read, and does not exist any more"):
        check_place(kafka, write_checkpoint(tmp_path / "b", [more], 1))
    busiest = max(ends(kafka_settings).items(), key=lambda found: found[1])
    delete_records(kafka_settings, dict([busiest]))
    del all_read[kafka_settings.topic_prefix + TOPIC][str(busiest[0])]
    with pytest.raises(
        UsageError, match=f"partition {busiest[0]}: it has no offset, and the log begins at {busiest[1]}"
    ):
        check_place(kafka, write_checkpoint(tmp_path / "c", [all_read], 1))


class HeldSink(MemorySink):
    """Says that a batch has come, and takes it once `go_on` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.has_come, self.go_on = threading.Event(), threading.Event()

    def write(self, batch: DataFrame, batch_id: int) -> None:
        self.has_come.set()
        assert self.go_on.wait(180)
        super().write(batch, batch_id)


def run_until_it_fails(job: StatisticsJob, failures: list[Exception]) -> None:
    try:
        job.run()
    except UsageError as e:
        failures.append(e)


def test_events_deleted_under_a_running_query_and_before_its_start_stop_it_in_the_same_words(
    spark: SparkSession, kafka_settings: Settings, told: None, tmp_path: Path
) -> None:
    settings, sink = replace(kafka_settings, trigger_s=0.5), HeldSink()
    found, failures = ends(settings), list[Exception]()

    def new_job() -> StatisticsJob:
        return StatisticsJob(spark, settings, Kafka(settings, "test"), sink, tmp_path, Metrics())

    job = new_job()
    thread = threading.Thread(target=run_until_it_fails, args=(job, failures))
    thread.start()
    try:
        assert sink.has_come.wait(180)
        delete_records(settings, found)
        sink.go_on.set()
        thread.join(180)
    finally:
        sink.go_on.set()
        job.stop()
        thread.join(60)
    [failure] = failures
    p, end = next((p, end) for p, end in found.items() if end)
    assert f"{settings.topic_prefix}{TOPIC}, partition {p}: the offsets 0 to {end - 1} were deleted" in str(failure)
    with pytest.raises(UsageError) as e:
        new_job().run()
    assert str(e.value) == str(failure)

    shutil.rmtree(tmp_path / CHECKPOINT)  # as the message says
    job = new_job()
    thread = threading.Thread(target=run_until_it_fails, args=(job, failures))
    thread.start()
    try:
        while not sink.rows:
            assert thread.is_alive()
            thread.join(0.05)
    finally:
        job.stop()
        thread.join(60)
    assert len(failures) == 1
