"""A consumer that leaves its group in the middle of a rebalance. In a process of its own: librdkafka aborted it."""

import subprocess
import sys

from headrace.settings import Settings

LEAVES = """
import sys
from agents.intake.consumer import TaskConsumer
from agents.intake.ready_queue import ReadyQueue
from headrace.kafka.client import Kafka
from headrace.settings import Settings

settings = Settings(kafka=sys.argv[1], topic_prefix=sys.argv[2])
for _ in range(3):
    consumer = TaskConsumer(Kafka(settings, "leaves"), ReadyQueue(), lambda *_: None)
    consumer.join()
    while consumer.membership is None:
        consumer.fill_queue(0.1)
    consumer.rejoin()
    consumer.leave()
"""


def test_a_consumer_that_has_just_asked_to_join_again_can_be_closed(kafka_settings: Settings, topics: str) -> None:
    command = [sys.executable, "-c", LEAVES, kafka_settings.kafka, topics]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
