"""The statistics' two figures: `python -m benchmarks.statistics [events]` (default 1,000,000; some minutes).

Catching up: from the query's start until the tables say what was produced, as the first query of a session (`seconds`)
and as the second (`warm_seconds`), with the peak memory of driver, JVM and Python workers, and the same events the
seed's way in the same run, a fresh JVM each. Steady: how long after its record an event is in the tables, at the
default trigger, beside the million in the state. Own broker and database; prints one JSON object.
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

from confluent_kafka import Producer
from pyspark.sql import SparkSession

from benchmarks import seed_statistics
from headrace.database import Database
from headrace.kafka import Kafka
from headrace.messages import Outcome, Task, received, started
from headrace.process_tree import below, processes
from headrace.records import Outgoing, Source
from headrace.settings import Settings
from headrace.topics import apply_topics
from infra.local import spark_archive
from infra.local.artifacts import artifact
from infra.local.database import EmbeddedDatabase
from infra.local.java import java_home
from infra.local.kafka import EmbeddedKafka
from infra.local.process import free_port
from spark_analytics.job import Job
from spark_analytics.metrics import Metrics
from spark_analytics.session import start_session
from spark_analytics.sinks import sink_of

KINDS = ("prime", "compression", "conversion")
STEADY_EVENTS = 20


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--measure"]:
        return measure(arguments[1], Path(arguments[2]), int(arguments[3]))
    events = int(arguments[0]) if arguments else 1_000_000
    os.environ["JAVA_HOME"] = str(java_home())
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name, stack(Path(name)) as settings:
        begun = time.monotonic()
        produce(settings, events // 3)
        print(f"{events // 3 * 3:,} events produced in {time.monotonic() - begun:.0f} s", file=sys.stderr)
        load = os.getloadavg()[0]
        found = {way: measured(way, settings, Path(name), events // 3) for way in ("headrace", "seed", "steady")}
    ratio = round(found["seed"]["seconds"] / found["headrace"]["seconds"], 1)
    print(json.dumps({"events": events // 3 * 3, "load_before": load, **found, "times_faster": ratio}, indent=2))
    return 0


def measured(way: str, settings: Settings, folder: Path, tasks: int) -> dict[str, float]:
    """One way in a process of its own, so that none inherits another's warmth or memory."""
    command = [sys.executable, "-m", "benchmarks.statistics", "--measure", way, str(folder), str(tasks)]
    environ = {**os.environ, **settings.environ(), **spark_archive.environ()}  # as `up` starts it
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])  # the JVM may have said something before
    print(way, found, file=sys.stderr)
    return found


def measure(way: str, folder: Path, tasks: int) -> int:
    settings = Settings.load()
    database = Database.parse(settings.database)
    own = folder / way
    own.mkdir()
    if way == "seed":
        seed_statistics.make_tables(database)
    spark = start_session(settings, own)
    found: dict[str, float] = {}
    with memory(found):
        if way == "seed":
            begun = time.monotonic()
            for name in ("spark.sql.shuffle.partitions", "spark.sql.streaming.stateStore.providerClass"):
                spark.conf.unset(name)  # as it ran, on Spark's defaults
            seed_statistics.run(spark, settings, database, own)
            found["seconds"] = round(time.monotonic() - begun, 2)
        else:
            with counting(spark, settings, database, own / "first", tasks) as seconds:
                found["seconds"] = seconds
                if way == "steady":
                    found |= steady(settings, database)
            if way == "headrace":
                with counting(spark, settings, database, own / "second", tasks) as seconds:
                    found["warm_seconds"] = seconds
    spark.stop()
    print(json.dumps(found))
    return 0


@contextmanager
def counting(spark: SparkSession, settings: Settings, database: Database, folder: Path, tasks: int) -> Iterator[float]:
    """The job from its start on, with no checkpoint and no tables; gives the seconds until all tasks are in those."""
    for (table,) in _rows(database, "SHOW TABLES"):
        _rows(database, f"DROP TABLE {table}")
    folder.mkdir()
    begun = time.monotonic()
    job = Job(spark, settings, Kafka(settings, "bench"), sink_of(settings.database), folder, Metrics())
    thread = threading.Thread(target=job.run)
    thread.start()
    try:
        while not counted(database, tasks):
            time.sleep(0.2)
        yield round(time.monotonic() - begun, 2)
    finally:
        job.stop()
        thread.join()


def counted(database: Database, tasks: int) -> bool:
    """Whether the tables hold every received, started and completed task."""
    try:
        found = dict(_rows(database, "SELECT event, SUM(count) FROM counts_hour GROUP BY event"))
    except Exception:  # noqa: BLE001 - not made yet
        return False
    return all(found.get(e, 0) >= tasks for e in ("received", "started", "completed"))


def steady(settings: Settings, database: Database) -> dict[str, float]:
    """Single events at random times, each until it is in the tables; in seconds and in triggers."""
    sender, waits = Producer(Kafka(settings, "bench").producer_config()), []
    topic = settings.topic_prefix + "lifecycle.received"
    time.sleep(2 * settings.trigger_s)
    for _ in range(STEADY_EVENTS):
        time.sleep(random.random() * settings.trigger_s)
        [(before,)] = _rows(database, "SELECT COALESCE(SUM(count), 0) FROM counts_minute WHERE event = 'received'")
        task_id = str(uuid.uuid4())
        sender.produce(topic, task_id, task_id, headers={"name": "prime"})
        sender.flush()
        begun = time.monotonic()
        while _rows(database, "SELECT COALESCE(SUM(count), 0) FROM counts_minute WHERE event = 'received'") == [
            (before,)
        ]:
            time.sleep(0.02)
        waits.append(time.monotonic() - begun)
    return {
        "latency_s_median": round(sorted(waits)[len(waits) // 2], 2),
        "latency_s_max": round(max(waits), 2),
        "trigger_s": settings.trigger_s,
        "triggers_max": round(max(waits) / settings.trigger_s, 2),
    }


def produce(settings: Settings, tasks: int) -> None:
    """Received, started and completed of each task."""
    kafka = Kafka(settings, "bench")
    apply_topics(kafka.admin(), settings.topic_prefix)
    options = {"linger.ms": 50, "queue.buffering.max.messages": 1_000_000, "queue.buffering.max.kbytes": 1_000_000}
    producer, now, chance = Producer(kafka.producer_config(**options)), int(time.time() * 1000), random.Random(1)

    def send(record: Outgoing) -> None:
        while True:
            try:
                producer.produce(kafka.topic(record.topic), record.value, key=record.key, headers=list(record.headers))
                return
            except BufferError:
                producer.poll(0.05)

    for i in range(tasks):
        task = Task(str(uuid.uuid4()), b"{}", 1, Source("tasks.normal", i % 16, i // 16), now)
        name, node, begun = KINDS[i % 3], f"node-{i % 4}", now + chance.randint(0, 1000)
        send(received(task, name, "demo", "http"))
        send(started(task, name, "demo", node, "boot"))
        ended = Outcome(task.id, "completed", b"", 1, "boot", node, task.source, now, name, "demo", started_ms=begun,
                        ended_ms=begun + int(chance.lognormvariate(5, 1)), offset=i)  # fmt: skip
        send(ended.completed(f"demo/{task.id}.json", chance.randint(1, 10_000), "ab" * 32))
        if i % 1000 == 0:
            producer.poll(0)
    producer.flush()


@contextmanager
def memory(found: dict[str, float]) -> Iterator[None]:
    """Adds the peak of the resident memory of this process and all below it, in MiB."""
    over, peak = threading.Event(), [0]

    def watch() -> None:
        while not over.wait(0.25):
            pids = {os.getpid(), *below([os.getpid()], processes())}
            peak[0] = max(peak[0], sum(map(_resident, pids)))

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
    """A broker and a database of our own, and the settings of a role over them."""
    kafka = EmbeddedKafka(folder / "kafka", f"127.0.0.1:{free_port()}")
    database = EmbeddedDatabase(folder / "database", f"127.0.0.1:{free_port()}")
    try:
        kafka.start()
        database.start()
        jars = ",".join(sorted(str(p) for p in artifact("spark-kafka").glob("*.jar")))
        yield replace(Settings(), kafka=kafka.bootstrap, database=database.url, spark_jars=jars, data=folder)
    finally:
        database.stop()
        kafka.stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
