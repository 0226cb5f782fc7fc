"""`python -m benchmarks.growth`: what a start and a takeover cost each role, after so many tasks.

    python -m benchmarks.growth --tasks 1000000 5000000 10000000 --folder /var/tmp/growth --picture growth.svg
    python -m benchmarks.growth --tasks 100000 --kafka 127.0.0.1:9092 --prefix t1.  # only generates, into that broker

Tasks that have ended are generated straight into the topics of a broker of its own; then each role starts on them. It
prints a row for each start, and judges nothing. Ten million tasks take some 12 GB in the folder.
"""

import argparse
import tempfile
from pathlib import Path

from confluent_kafka.admin import AdminClient

from headrace.kafka.client import Kafka
from headrace.kafka.topics import apply_topics
from headrace.settings import Settings
from infra.local.kafka import EmbeddedKafka
from infra.local.process import free_port

from .generate import generate
from .starts import ROLES, Start, Starts


def main() -> None:
    asked = _arguments()
    if asked.kafka:
        _add_tasks(Settings(kafka=asked.kafka, topic_prefix=asked.prefix), asked.tasks[0], asked.rate, asked.partitions)
        return
    with tempfile.TemporaryDirectory(prefix="headrace-growth-", dir=asked.folder) as name:
        rows = _measure(Path(name), asked)
    if asked.picture is not None:
        from .chart import write_chart

        write_chart(rows, asked.picture)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth")
    parser.add_argument(
        "--tasks", type=int, nargs="+", default=[1_000_000], help="measure when so many have ended (default: 1000000)"
    )
    parser.add_argument("--rate", type=float, default=400.0, help="tasks a second, in the past (default: 400)")
    parser.add_argument("--partitions", type=int, default=16, help="of every keyed topic (default: 16)")
    parser.add_argument("--folder", type=Path, help="where the broker and the roles keep their data (default: /tmp)")
    parser.add_argument(
        "--roles", nargs="+", choices=ROLES, default=ROLES, help="measure only these (default: all of them)"
    )
    parser.add_argument("--picture", type=Path, help="write a chart to this .html or .svg file")
    parser.add_argument("--kafka", default="", help="bootstrap servers: only generate tasks, into this Kafka")
    parser.add_argument("--prefix", default="", help="prefix of its topics")
    return parser.parse_args()


def _measure(folder: Path, asked: argparse.Namespace) -> list[Start]:
    kafka = EmbeddedKafka(folder / "kafka", f"127.0.0.1:{free_port()}")
    settings = Settings(
        kafka=kafka.bootstrap,
        http=f"127.0.0.1:{free_port()}",
        storekeeper_http=f"127.0.0.1:{free_port()}",
        stats_http=f"127.0.0.1:{free_port()}",
        node="node",
    )
    kafka.start()
    try:
        starts, rows, done = Starts(settings, folder, asked.partitions), list[Start](), 0
        for tasks in sorted(asked.tasks):
            _add_tasks(settings, tasks - done, asked.rate, asked.partitions)
            done = tasks
            names = f"{'tasks':>12}{'role':>14}{'start':>10}{'seconds':>10}{'CPU':>10}{'memory':>12}{'disk':>12}"
            print(names, flush=True)
            for row in starts.measure(tasks, asked.roles):
                rows.append(row)
                print(_line(row), flush=True)
        return rows
    finally:
        kafka.kill()


def _add_tasks(settings: Settings, tasks: int, rate: float, partitions: int) -> None:
    apply_topics(AdminClient({"bootstrap.servers": settings.kafka}), settings.topic_prefix, partitions)
    made = generate(Kafka(settings, "growth"), tasks, rate=rate)
    print(f"{made.tasks:,} tasks, {made.bytes / 1e6:,.0f} MB, in {made.took_s:.0f} s", flush=True)


def _line(row: Start) -> str:
    memory, disk = f"{row.memory_mib:.0f} MiB", f"{row.disk_mib:.0f} MiB"
    return f"{row.tasks:>12,}{row.role:>14}{row.how:>10}{row.seconds:>10.1f}{row.cpu_s:>10.1f}{memory:>12}{disk:>12}"


if __name__ == "__main__":
    main()
