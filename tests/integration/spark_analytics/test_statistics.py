"""The statistics over a real Kafka and a real MariaDB: the tables equal a recount of the topics."""

import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from pyspark.sql import DataFrame, SparkSession

from headrace.kafka.client import Kafka
from headrace.kafka.topics import apply_topics
from headrace.process.health import Health
from headrace.settings import Settings
from headrace.storage.mysql import Database
from infra.local.database import EmbeddedDatabase
from infra.local.roles import Role
from spark_analytics.job import StatisticsJob
from spark_analytics.metrics import Metrics
from spark_analytics.sinks import sink_of
from spark_analytics.sinks.base import Sink
from spark_analytics.sinks.memory import MemorySink
from tests.rigs.lifecycle import Counts, Sends, flat, recount, rows, stories, wait_until_counted
from tests.rigs.topics import PARTITIONS

# A session and a first batch with nothing compiled take long on a busy machine.
pytestmark = pytest.mark.timeout(600)


PROMISE_S = 10.0  # from a role's loss of an ability to its report


def wait(condition: Callable[[], bool], timeout_s: float = 180.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition has not come true"
        time.sleep(0.05)


@contextmanager
def counting(spark: SparkSession, settings: Settings, folder: Path, sink: Sink | None = None) -> Iterator[Health]:
    """The job in a thread, as the process runs it."""
    sink = sink or sink_of(settings.database)
    job = StatisticsJob(spark, settings, Kafka(settings, "test"), sink, folder, Metrics())
    health = Health()
    job.add_checks(health)
    thread = threading.Thread(target=job.run)
    thread.start()
    try:
        yield health
    finally:
        job.stop()
        thread.join(60)
    assert not thread.is_alive()


def by_event(counts: Counts) -> dict[str, int]:
    found: dict[str, int] = {}
    for (_, event, _, _), n in counts.items():
        found[event] = found.get(event, 0) + n
    return found


def hours(database: Database) -> dict[str, int]:
    return {e: int(n) for e, n in rows(database, "SELECT event, SUM(count) FROM counts_hour GROUP BY event")}


def test_tables_equal_a_recount_through_repeats_a_dead_database_a_restart_and_a_new_database(
    spark: SparkSession,
    statistics_settings: Settings,
    topics: str,
    database: Database,
    mariadb: EmbeddedDatabase,
    tmp_path: Path,
) -> None:
    send, kafka = Sends(statistics_settings), statistics_settings.kafka
    told = stories(300)
    send(flat(told[:100]))
    with counting(spark, statistics_settings, tmp_path) as health:
        send(flat(told[50:150]))  # half of them again
        wait_until_counted(database, recount(kafka, topics))
        wait(lambda: not health.reasons())

        mariadb.stop()
        wait(lambda: any(r.startswith("database") for r in health.reasons()), 10)
        send(flat(told[150:250]))
        wait(lambda: any(r.startswith("query") for r in health.reasons()))  # a batch waits
        mariadb.start()
        wait_until_counted(database, recount(kafka, topics))
        wait(lambda: not health.reasons())

    send(flat(told[200:]))
    expected = recount(kafka, topics)
    with counting(spark, statistics_settings, tmp_path):
        wait_until_counted(database, expected)
        wait(lambda: hours(database) == by_event(expected))
    assert rows(database, "SELECT SUM(tasks) FROM counts_hour WHERE event = 'started'") == [(300,)]
    done = by_event(expected)["completed"]
    timed = "SELECT measure, SUM(count) FROM durations_hour GROUP BY measure ORDER BY measure"
    assert rows(database, timed) == [("duration", done), ("queued", done)]

    connection = database.connect()  # everything is gone, as in a new database
    with connection.cursor() as cursor:
        for (table,) in rows(database, "SHOW TABLES"):
            cursor.execute(f"DROP TABLE {table}")
    connection.close()
    with counting(spark, statistics_settings, tmp_path):
        wait_until_counted(database, expected)
    send.close()


def test_events_later_than_the_watermark_are_reported(
    spark: SparkSession, statistics_settings: Settings, topics: str, database: Database, tmp_path: Path
) -> None:
    """The broker's clock cannot be turned back, so this topic takes its producers' times."""
    admin = AdminClient({"bootstrap.servers": statistics_settings.kafka})
    entry = ConfigEntry("message.timestamp.type", "CreateTime", incremental_operation=AlterConfigOpType.SET)
    config = ConfigResource(ResourceType.TOPIC, topics + "lifecycle.received", incremental_configs=[entry])
    for answer in admin.incremental_alter_configs([config]).values():
        answer.result(20)
    producer, now = Producer({"bootstrap.servers": statistics_settings.kafka}), int(time.time() * 1000)

    def produce(number: int, at: int) -> None:
        key = f"{number:08x}-0000-4000-8000-000000000000"
        producer.produce(topics + "lifecycle.received", key, key, headers={"name": "prime"}, timestamp=at)
        producer.flush()

    def counted() -> int:
        return hours(database).get("received", 0)

    with counting(spark, statistics_settings, tmp_path):
        produce(1, now)
        wait_until_counted(database, recount(statistics_settings.kafka, topics))
        produce(2, now - 9 * 60_000)  # late, but not too late
        wait(lambda: counted() == 2)
        produce(3, now - 30 * 60_000)
        wait(lambda: rows(database, "SELECT SUM(late) FROM batches") == [(1,)])
    assert counted() == 2


class SlowSink(MemorySink):
    """Takes its counts once `go_on` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def write(self, batch: DataFrame, batch_id: int) -> None:
        assert self.go_on.wait(180)
        super().write(batch, batch_id)


def test_the_job_is_ready_when_it_has_counted_what_came_before_also_when_nothing_came(
    spark: SparkSession, kafka_settings: Settings, topics: str, tmp_path: Path
) -> None:
    settings, sink = replace(kafka_settings, trigger_s=0.5), SlowSink()
    send = Sends(settings)
    send(flat(stories(20)))
    send.close()
    with counting(spark, settings, tmp_path, sink) as health:
        try:
            wait(lambda: any("query: its first micro-batch" in r for r in health.reasons()))
        finally:
            sink.go_on.set()
        wait(lambda: not health.reasons())
        assert sink.rows
    with counting(spark, settings, tmp_path, sink) as health:
        wait(lambda: not health.reasons())


def reasons(role: Role) -> list[str]:
    host, _, port = role.listens.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    try:
        connection.request("GET", "/readyz")
        found: list[str] = json.loads(connection.getresponse().read())["reasons"]
        return found
    except OSError:
        return ["it does not listen yet"]
    finally:
        connection.close()


def test_the_process_waits_for_topics_counts_audits_and_stops_on_request(
    statistics: Role, statistics_settings: Settings, prefix: str, database: Database
) -> None:
    statistics.launch()
    wait(lambda: any("run headrace topics apply" in r for r in reasons(statistics)), 90)
    apply_topics(AdminClient({"bootstrap.servers": statistics_settings.kafka}), prefix, PARTITIONS)
    send = Sends(statistics_settings)
    send(flat(stories(50)))
    send.close()
    wait_until_counted(database, recount(statistics_settings.kafka, prefix))
    statistics.wait_ready(60)
    wait(lambda: bool(rows(database, "SELECT 1 FROM audits WHERE received = 50 AND lost = 0 AND repeated = 0 LIMIT 1")))
    jvm = int((statistics_settings.data / "analytics" / "jvm.pid").read_text())
    os.kill(jvm, signal.SIGSTOP)
    try:
        wait(lambda: any("Spark has neither ended" in r for r in reasons(statistics)), PROMISE_S)
    finally:
        os.kill(jvm, signal.SIGCONT)
    statistics.wait_ready(30)
    assert statistics.stop(30), "it did not end by itself"
    assert statistics.returncode == 0
