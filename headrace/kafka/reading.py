"""Reading a stretch of the log once, to its end, beside whatever consumes it: windows, journals.

Used by intake and reaper. Blocks for as long as the reading takes; Retryable when Kafka does not answer in time.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from headrace.contract.records import Place
from headrace.errors import Retryable
from headrace.kafka.client import SHORT_FETCH, Kafka

ANSWER_S = 10.0


def words_of(error: KafkaException) -> str:
    return str(error.args[0].str())


def place_of(kafka: Kafka, message: Message) -> tuple[Place, int]:
    """Where a message, or the news of a partition's end, belongs: its place and offset."""
    partition, offset = message.partition(), message.offset()
    at = -1 if partition is None else partition
    return (kafka.unprefixed(message.topic() or ""), at), -1 if offset is None else offset


def offsets(kafka: Kafka, admin: AdminClient, places: Iterable[Place], *, first: bool = False) -> dict[Place, int]:
    """The offset after the last record of each place (or of its first record); Retryable."""
    spec = OffsetSpec.earliest() if first else OffsetSpec.latest()  # type: ignore[no-untyped-call]
    asked = {TopicPartition(kafka.topic(t), p): spec for t, p in places}
    try:
        answers = admin.list_offsets(asked, request_timeout=ANSWER_S) if asked else {}
        return {(kafka.unprefixed(at.topic), at.partition): f.result().offset for at, f in answers.items()}
    except KafkaException as e:
        forget_leaders(admin)
        raise Retryable(f"the ends of the log are not known: {words_of(e)}") from None


def committed(
    kafka: Kafka, consumer: Consumer, places: Iterable[Place], timeout_s: float = ANSWER_S
) -> dict[Place, int]:
    """The offsets that the consumer's group has committed, negative where there is none; Retryable.

    By a consumer, which need not be a member: librdkafka 2.16.1 aborts the whole process when a coordinator's
    connection breaks while the admin client asks for the same (its issues 4605, 5397).
    """
    asked = [TopicPartition(kafka.topic(t), p) for t, p in places]
    try:
        found = consumer.committed(asked, timeout=timeout_s) if asked else []
    except KafkaException as e:
        raise Retryable(f"the committed offsets are not known: {words_of(e)}") from None
    if broken := [f for f in found if f.error is not None]:
        raise Retryable(f"the committed offsets are not known: {broken[0].error}")
    return {(kafka.unprefixed(f.topic), f.partition): f.offset for f in found}


def forget_leaders(admin: AdminClient) -> None:
    """After a failed `list_offsets`: librdkafka would ask with the leaders' old epochs for ever (seen in 2.16.1)."""
    with contextlib.suppress(KafkaException):
        admin.list_topics(timeout=ANSWER_S)


def read_ranges(
    kafka: Kafka,
    ranges: Mapping[Place, tuple[int, int]],
    handle: Callable[[Message], None],
    timeout_s: float = 60.0,
) -> None:
    """Hands over every message of [from, to) of each place, in order within a place."""
    left = {place: end for place, (begin, end) in ranges.items() if begin < end}
    if not left:
        return
    consumer = kafka.consumer(None, **SHORT_FETCH | {"auto.offset.reset": "earliest"})
    deadline = time.monotonic() + timeout_s
    try:
        consumer.assign([TopicPartition(kafka.topic(t), p, ranges[t, p][0]) for t, p in left])
        while left:
            if time.monotonic() > deadline:
                raise Retryable(f"{len(left)} partitions could not be read to their end in {timeout_s:.0f} s")
            for message in consumer.consume(1000, 0.05):
                place, offset = place_of(kafka, message)
                error = message.error()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    continue  # librdkafka tries again by itself
                if place not in left:
                    continue
                if error is None and offset < left[place]:
                    handle(message)
                if offset + (error is None) >= left[place]:
                    del left[place]
    finally:
        consumer.close()
