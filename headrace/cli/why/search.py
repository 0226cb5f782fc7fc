"""Finds all records of one task in Kafka: in the partition of its id, and in those that its records point to.

Used by `headrace why`. Reads each partition once, from its first record to its end at the time of asking.
KafkaException or Retryable when Kafka does not answer.
"""

import time
from collections.abc import Callable, Iterable

from confluent_kafka import Consumer, KafkaException

from headrace.cli.why.timeline import KEYED_TOPICS
from headrace.contract.ids import id_of_key, id_of_source
from headrace.contract.records import Place, Record, Source
from headrace.errors import Undecodable
from headrace.kafka.client import SHORT_FETCH, Kafka
from headrace.kafka.partition_counts import QUEUE_TOPICS, TASK_TOPICS, read_partition_counts
from headrace.kafka.reading import ANSWER_S, log_bounds, read_batches


def find_records(kafka: Kafka, task_id: str) -> list[Record]:
    """Every record about the task, in no particular order; empty when Kafka has none."""
    counts = read_partition_counts(kafka, ANSWER_S, QUEUE_TOPICS)
    home, queue = counts.places_of(task_id, KEYED_TOPICS), counts.all_places(QUEUE_TOPICS)
    consumer = kafka.consumer(None, **SHORT_FETCH)
    try:
        found = _scan(kafka, consumer, home, task_id)
        # A submission without a key can be in any partition, and so are its claims. Its other records name the source.
        named = {s.partition for r in found if (s := _source(r)) is not None}
        elsewhere = {place for place in queue if place[1] in named} if found else queue
        return found + _scan(kafka, consumer, elsewhere - home, task_id)
    finally:
        consumer.close()


def _scan(kafka: Kafka, consumer: Consumer, places: Iterable[Place], task_id: str) -> list[Record]:
    ranges = {place: _bounds(kafka, consumer, place) for place in places}
    is_about = _matcher(task_id)
    records = (kafka.record(message) for batch in read_batches(kafka, consumer, ranges) for message in batch)
    return [record for record in records if is_about(record)]


def _bounds(kafka: Kafka, consumer: Consumer, place: Place) -> tuple[int, int]:
    """First and next offset. While a partition changes its leader, Kafka answers with an error for a moment."""
    deadline = time.monotonic() + ANSWER_S
    while True:
        try:
            return log_bounds(kafka, consumer, [place])[place]
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _matcher(task_id: str) -> Callable[[Record], bool]:
    raw = task_id.encode()

    def is_about(record: Record) -> bool:
        if record.topic == "tasks.running":
            return raw in (record.key or b"") or any(k == "members" and raw in v for k, v in record.headers)
        own = id_of_key(record.key)
        if own is None and record.topic in TASK_TOPICS:
            own = id_of_source(record.topic, record.partition, record.offset)
        return own == task_id

    return is_about


def _source(record: Record) -> Source | None:
    try:
        return Source.parse(record.text("source"))
    except Undecodable:
        return None
