"""All records of one task, found in the log: the partitions its id lies in, and those that its records point to.

Used by `headrace why`. Reads each partition once, from its beginning to its end at the time of asking; KafkaException
or Retryable when Kafka does not answer.
"""

import time
from collections.abc import Callable, Iterable

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headrace.cli.why.timeline import KEYED_TOPICS
from headrace.contract.ids import id_of_key, id_of_place
from headrace.contract.records import Record, Source
from headrace.errors import Retryable, Undecodable
from headrace.kafka.client import SHORT_FETCH, Kafka
from headrace.kafka.partitioner import partition_of

_ANSWER_S = 10.0
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
    topic = kafka.admin().list_topics(name, timeout=_ANSWER_S).topics[name]
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
            own = id_of_place(record.topic, record.partition, record.offset)
        return own == task_id

    return belongs


def _source(record: Record) -> Source | None:
    try:
        return Source.parse(record.text("source"))
    except Undecodable:
        return None


def _bounds(consumer: Consumer, place: TopicPartition) -> tuple[int, int]:
    """First and next offset. A leader that has just changed answers with an error that is over in a moment."""
    deadline = time.monotonic() + _ANSWER_S
    while True:
        try:
            return consumer.get_watermark_offsets(place, timeout=_ANSWER_S)
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _scan(kafka: Kafka, places: Iterable[tuple[str, int]], wanted: Callable[[Record], bool]) -> list[Record]:
    consumer = kafka.consumer(None, **SHORT_FETCH)
    found: list[Record] = []
    try:
        left: dict[tuple[str, int], int] = {}
        begin = []
        for topic, partition in places:
            low, high = _bounds(consumer, TopicPartition(kafka.topic(topic), partition))
            if low < high:
                left[topic, partition] = high
                begin.append(TopicPartition(kafka.topic(topic), partition, low))
        consumer.assign(begin)
        deadline = time.monotonic() + _ANSWER_S
        while left:
            for message in consumer.consume(1000, 0.1):
                deadline = time.monotonic() + _ANSWER_S
                if (error := message.error()) is not None:
                    if error.code() != KafkaError._PARTITION_EOF:
                        raise KafkaException(error)
                    left.pop((kafka.unprefixed(message.topic() or ""), message.partition() or 0), None)
                    continue
                record = kafka.record(message)
                place = (record.topic, record.partition)
                if wanted(record):
                    found.append(record)
                if record.offset + 1 >= left.get(place, 0):
                    left.pop(place, None)
            if time.monotonic() > deadline:
                raise Retryable(f"{len(left)} partitions could not be read to their end")
    finally:
        consumer.close()
    return found
