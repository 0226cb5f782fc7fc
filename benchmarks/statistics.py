"""Benchmark of the statistics: `python -m benchmarks.statistics [events]` (default 1,000,000; some minutes).

Each scenario runs in a process and a JVM of its own, with one broker and one database for all; peak memory includes
driver, JVM and Python workers. Prints one JSON object:

- `up`: a running job gets all events between two triggers; `seconds` from the second trigger until the tables have
them. - `restart`: a job starts with all events waiting; `seconds` from its start, as the first query of its JVM, and
`warm_seconds` for a second job in the same JVM. - `seed`: as `restart`, with the queries of `seed_statistics`. -
`steady`: time from a record to its count in the tables, at the default trigger, with all other events in the state.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pymysql
from confluent_kafka import Producer
from pyspark.sql import SparkSession

from benchmarks import seed_statistics
from headrace.child.process_tree import descendants, processes
from headrace.contract.records import Outgoing, Source
from headrace.contract.task import Task
from headrace.kafka.client import Kafka
from headrace.kafka.topics import apply_topics
from headrace.settings import Settings
from headrace.storage.mysql import Database
from infra.local import spark_archive
from infra.local.database import EmbeddedDatabase
from infra.local.java import java_home
from infra.local.kafka import EmbeddedKafka
from infra.local.process import free_port
from spark_analytics.job import StatisticsJob
from spark_analytics.metrics import Metrics
from spark_analytics.sample_records import completed_task
from spark_analytics.session import start_session
from spark_analytics.sinks import sink_of

KINDS = ("prime", "compression", "conversion")
STEADY_EVENTS = 20


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--measure"]:
        return measure(arguments[1], Path(arguments[2]), int(arguments[3]))
    tasks = (int(arguments[0]) if arguments else 1_000_000) // 3
    os.environ["JAVA_HOME"] = str(java_home())
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name, stack(Path(name)) as settings:
        begun = time.monotonic()
        produce(settings, tasks)
        print(f"{tasks * 3:,} events produced in {time.monotonic() - begun:.0f} s", file=sys.stderr)
        load = os.getloadavg()[0]
        found = {scenario: measured(scenario, settings, Path(name), tasks) for scenario in SCENARIOS}
    ratios = {
        scenario: round(found["seed"]["seconds"] / found[scenario]["seconds"], 1) for scenario in ("up", "restart")
    }
    print(json.dumps({"events": tasks * 3, "load_before": load, **found, "times_faster": ratios}, indent=2))
    return 0


def measured(scenario: str, settings: Settings, folder: Path, tasks: int) -> dict[str, float]:
    """Runs one scenario in a process of its own, so that none inherits a warm JVM or memory."""
    command = [sys.executable, "-m", "benchmarks.statistics", "--measure", scenario, str(folder), str(tasks)]
    environ = {**os.environ, **settings.environ(), **spark_archive.environ()}  # as `up` starts it
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])  # the JVM may have printed something before
    print(scenario, found, file=sys.stderr)
    return found


def measure(scenario: str, folder: Path, tasks: int) -> int:
    settings = Settings.load()
    own = folder / scenario
    own.mkdir()
    spark = start_session(settings, own)
    found: dict[str, float] = {}
    with memory(found):
        found |= SCENARIOS[scenario](spark, settings, own, tasks)
    spark.stop()
    print(json.dumps(found))
    return 0


def up(spark: SparkSession, settings: Settings, folder: Path, tasks: int) -> dict[str, float]:
    """Has topics of its own, and triggers so far apart that all events are produced between two of them."""
    trigger_s = 60.0 * (1 + tasks * 3 // 2_000_000)
    settings = replace(settings, topic_prefix="up.", trigger_s=trigger_s)
    apply_topics(Kafka(settings, "bench").admin(), settings.topic_prefix)
    with running(spark, settings, folder) as (job, database):
        while job.counted_until() is None:
            time.sleep(0.2)
        time.sleep(trigger_s - time.time() % trigger_s)  # Spark triggers at whole multiples of it
        trigger = (time.time() // trigger_s + 1) * trigger_s
        produce(settings, tasks)
        if time.time() > trigger:
            raise SystemExit(
                f"producing took longer than the trigger interval of {trigger_s:.0f} s: nothing was measured"
            )
        wait_until_counted(database, tasks)
        return {"seconds": round(time.time() - trigger, 2)}


def restart(spark: SparkSession, settings: Settings, folder: Path, tasks: int) -> dict[str, float]:
    found = {}
    for name in ("seconds", "warm_seconds"):
        begun = time.monotonic()
        with running(spark, settings, folder / name) as (_, database):
            wait_until_counted(database, tasks)
            found[name] = round(time.monotonic() - begun, 2)
    return found


def seed(spark: SparkSession, settings: Settings, folder: Path, tasks: int) -> dict[str, float]:
    database = Database.parse(settings.database)
    seed_statistics.make_tables(database)
    for name in ("shuffle.partitions", "streaming.stateStore.providerClass", "ansi.enabled"):
        spark.conf.unset(f"spark.sql.{name}")  # as it ran then, with Spark's defaults
    begun = time.monotonic()
    seed_statistics.run(spark, settings, database, folder)
    return {"seconds": round(time.monotonic() - begun, 2)}


def steady(spark: SparkSession, settings: Settings, folder: Path, tasks: int) -> dict[str, float]:
    """Sends single events at random times, and measures the time until each is in the tables."""
    sender, waits = Producer(Kafka(settings, "bench").producer_config()), []
    topic = settings.topic_prefix + "lifecycle.received"
    with running(spark, settings, folder) as (_, database):
        wait_until_counted(database, tasks)
        time.sleep(2 * settings.trigger_s)
        for _ in range(STEADY_EVENTS):
            time.sleep(random.random() * settings.trigger_s)
            before = counted(database)["received"]
            task_id = str(uuid.uuid4())
            sender.produce(topic, task_id, task_id, headers={"name": "prime"})
            sender.flush()
            begun = time.monotonic()
            while counted(database)["received"] == before:
                time.sleep(0.02)
            waits.append(time.monotonic() - begun)
    return {
        "latency_s_median": round(sorted(waits)[len(waits) // 2], 2),
        "latency_s_max": round(max(waits), 2),
        "trigger_s": settings.trigger_s,
        "triggers_max": round(max(waits) / settings.trigger_s, 2),
    }


SCENARIOS = {"up": up, "restart": restart, "seed": seed, "steady": steady}


@contextmanager
def running(spark: SparkSession, settings: Settings, folder: Path) -> Iterator[tuple[StatisticsJob, Database]]:
    """A job that starts without a checkpoint and without tables."""
    database = Database.parse(settings.database)
    for (table,) in _rows(database, "SHOW TABLES"):
        _rows(database, f"DROP TABLE {table}")
    folder.mkdir(exist_ok=True)
    job = StatisticsJob(spark, settings, Kafka(settings, "bench"), sink_of(settings.database), folder, Metrics())
    thread = threading.Thread(target=job.run)
    thread.start()
    try:
        yield job, database
    finally:
        job.stop()
        thread.join()


def wait_until_counted(database: Database, tasks: int) -> None:
    """Waits until the tables hold every received, started and completed task."""
    while True:
        found = counted(database)
        if all(found.get(e, 0) >= tasks for e in ("received", "started", "completed")):
            return
        time.sleep(0.2)


def counted(database: Database) -> dict[str, int]:
    """Counts in the tables by event; empty while there are no tables."""
    try:
        return {e: int(n) for e, n in _rows(database, "SELECT event, SUM(count) FROM counts_hour GROUP BY event")}
    except pymysql.MySQLError:
        return {}


def produce(settings: Settings, tasks: int) -> None:
    """Sends received, started and completed of each task to existing topics."""
    kafka = Kafka(settings, "bench")
    options = {"linger.ms": 50, "queue.buffering.max.messages": 100_000, "queue.buffering.max.kbytes": 100_000}
    producer, now, chance = Producer(kafka.producer_config(**options)), int(time.time() * 1000), random.Random(1)

    def send(record: Outgoing) -> None:
        while True:
            try:
                producer.produce(kafka.topic(record.topic), record.value, key=record.key, headers=list(record.headers))
                return
            except BufferError:
                producer.poll(0.05)

    for i in range(tasks):
        source = Source("tasks.normal", i % 16, i // 16)
        task = Task(str(uuid.uuid4()), b"{}", attempt=1, source=source, submitted_ms=now)
        begun = now + chance.randint(0, 1000)
        records = completed_task(
            task,
            KINDS[i % 3],
            f"node-{i % 4}",
            started_ms=begun,
            ended_ms=begun + int(chance.lognormvariate(5, 1)),
            size=chance.randint(1, 10_000),
            offset=i,
        )
        for record in records:
            send(record)
        if i % 1000 == 0:
            producer.poll(0)
    producer.flush()


@contextmanager
def memory(found: dict[str, float]) -> Iterator[None]:
    """Adds `peak_mib` to `found`: the peak resident memory of this process and its descendants.

    Each sample is the smaller of two, because a starting program briefly shows its parent's memory as its own.
    """
    over, peak = threading.Event(), [0]

    def sample() -> int:
        return sum(map(_resident, {os.getpid(), *descendants([os.getpid()], processes())}))

    def watch() -> None:
        while not over.wait(0.25):
            first = sample()
            time.sleep(0.02)
            peak[0] = max(peak[0], min(first, sample()))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    found["peak_mib"] = round(peak[0] / 2**20)


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _rows(database: Database, sql: str) -> list[tuple]:  # type: ignore[type-arg]
    connection = database.connect()
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())
    finally:
        connection.close()


@contextmanager
def stack(folder: Path) -> Iterator[Settings]:
    """A broker and a database of the benchmark's own; yields settings that use them."""
    kafka = EmbeddedKafka(folder / "kafka", f"127.0.0.1:{free_port()}")
    database = EmbeddedDatabase(folder / "database", f"127.0.0.1:{free_port()}")
    try:
        kafka.start()
        database.start()
        found = replace(Settings(), kafka=kafka.bootstrap, database=database.url, data=folder)
        apply_topics(Kafka(found, "bench").admin(), found.topic_prefix)
        yield replace(found, spark_jars=spark_archive.connector())
    finally:
        database.stop()
        kafka.stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
