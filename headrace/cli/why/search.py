"""All records of one task, found in the log: the partitions its id lies in, and those that its records point to.

Used by `headrace why`. Reads each partition once, from its beginning to its end at the time of asking; KafkaException
or Retryable when Kafka does not answer.
"""

import time
from collections.abc import Callable, Sequence

from confluent_kafka import Consumer, KafkaException

from headrace.cli.why.timeline import KEYED_TOPICS
from headrace.contract.ids import id_of_key, id_of_source
from headrace.contract.records import Place, Record, Source
from headrace.errors import Retryable, Undecodable
from headrace.kafka.client import SHORT_FETCH, Kafka
from headrace.kafka.partitioner import partition_of
from headrace.kafka.reading import ANSWER_S, log_bounds, read_batches

_QUEUES = ("tasks.normal", "tasks.high")


def find_records(kafka: Kafka, task_id: str) -> list[Record]:
    """Every record about the task, in no particular order; empty when the log knows nothing of it."""
    partitions = _partitions(kafka)
    home = partition_of(task_id.encode(), partitions)
    found = _scan(kafka, [(topic, home) for topic in KEYED_TOPICS], _belongs(task_id))
    # A submission without a key lies anywhere, and so do its claims: the records that tell of it say where.
    elsewhere = {s.partition for r in found if (s := _source(r)) is not None and 0 <= s.partition < partitions}
    if not found:
        elsewhere = set(range(partitions))
    places = [(topic, p) for p in elsewhere - {home} for topic in (*_QUEUES, "tasks.running")]
    return found + _scan(kafka, places, _belongs(task_id))


def _partitions(kafka: Kafka) -> int:
    name = kafka.topic("results")
    topic = kafka.admin().list_topics(name, timeout=ANSWER_S).topics[name]
    if topic.error is not None:
        raise Retryable(f"the topic {name} is not there: {topic.error.str()}")
    return len(topic.partitions)


def _belongs(task_id: str) -> Callable[[Record], bool]:
    raw = task_id.encode()

    def belongs(record: Record) -> bool:
        if record.topic == "tasks.running":
            return raw in (record.key or b"") or any(k == "members" and raw in v for k, v in record.headers)
        own = id_of_key(record.key)
        if own is None and record.topic in _QUEUES:
            own = id_of_source(record.topic, record.partition, record.offset)
        return own == task_id

    return belongs


def _source(record: Record) -> Source | None:
    try:
        return Source.parse(record.text("source"))
    except Undecodable:
        return None


def _bounds(kafka: Kafka, consumer: Consumer, places: Sequence[Place]) -> dict[Place, tuple[int, int]]:
    """First and next offsets. A leader that has just changed answers with an error that is over in a moment."""
    deadline = time.monotonic() + ANSWER_S
    while True:
        try:
            return log_bounds(kafka, consumer, places)
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _scan(kafka: Kafka, places: Sequence[Place], wanted: Callable[[Record], bool]) -> list[Record]:
    consumer = kafka.consumer(None, **SHORT_FETCH)
    try:
        batches = read_batches(kafka, consumer, _bounds(kafka, consumer, places))
        return [record for batch in batches for m in batch if wanted(record := kafka.record(m))]
    finally:
        consumer.close()
