"""`python -m benchmarks.growth`: what a start and a takeover cost each role, after so many tasks.

    python -m benchmarks.growth --tasks 100000 --kafka 127.0.0.1:9092 --prefix t1.  # only generates, into that broker

Tasks that have ended are generated straight into the topics.
"""

import argparse
from pathlib import Path

from confluent_kafka.admin import AdminClient

from headrace.kafka.client import Kafka
from headrace.kafka.topics import apply_topics
from headrace.settings import Settings

from .generate import generate


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth")
    parser.add_argument("--tasks", type=int, default=1_000_000, help="so many tasks have ended (default: 1000000)")
    parser.add_argument("--rate", type=float, default=400.0, help="tasks a second, in the past (default: 400)")
    parser.add_argument("--partitions", type=int, default=16, help="of every keyed topic (default: 16)")
    parser.add_argument("--kafka", default="", help="bootstrap servers: only generate tasks, into this Kafka")
    parser.add_argument("--prefix", default="", help="prefix of its topics")
    asked = parser.parse_args()
    kafka = Kafka(Settings(kafka=asked.kafka, topic_prefix=asked.prefix, data=Path()), "growth")
    apply_topics(AdminClient({"bootstrap.servers": asked.kafka}), asked.prefix, asked.partitions)
    made = generate(kafka, asked.tasks, rate=asked.rate)
    print(f"{made.tasks:,} tasks, {made.bytes / 1e6:,.0f} MB, in {made.took_s:.0f} s")


if __name__ == "__main__":
    main()
