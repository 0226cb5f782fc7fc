"""Reads stretches of the log, single records and offsets, without joining a group: beside whatever consumes the log.

Used by every role. All of it blocks. Retryable when Kafka does not answer in time; some functions let KafkaException
through, and say so.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from headrace.contract.records import Place, Record, Source
from headrace.errors import Retryable
from headrace.kafka.client import SHORT_FETCH, Kafka

ANSWER_S = 10.0
_POLL_S = 0.1  # how soon a time limit is noticed
_GONE = (  # errors of a place that the log does not hold
    KafkaError._AUTO_OFFSET_RESET,
    KafkaError._PARTITION_EOF,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
)


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


def log_bounds(
    kafka: Kafka, consumer: Consumer, places: Iterable[Place], timeout_s: float = ANSWER_S
) -> dict[Place, tuple[int, int]]:
    """The first and the next offset of each place, asked one after another; KafkaException."""
    return {
        (t, p): consumer.get_watermark_offsets(TopicPartition(kafka.topic(t), p), timeout=timeout_s) for t, p in places
    }


def read_batches(
    kafka: Kafka,
    consumer: Consumer,
    ranges: Mapping[Place, tuple[int, int]],
    *,
    most: int = 1000,
    silent_s: float = ANSWER_S,
    timeout_s: float = math.inf,
    raise_errors: bool = True,
) -> Iterator[list[Message]]:
    """Yields every message of [begin, end) of each place that the log holds, in batches, in order within a place.

    `consumer` belongs to no group; it is assigned for this reading alone. A batch is what has arrived, at most `most`
    messages. A place is read to its end when a message or the end of the partition at or behind `end - 1` has come:
    the last records may be compacted, or markers of transactions. Retryable when nothing comes for `silent_s`, or when
    the reading takes longer than `timeout_s`. KafkaException for a partition's error, unless `raise_errors` is False:
    librdkafka repeats the fetch by itself.
    """
    left = {place: end for place, (begin, end) in ranges.items() if begin < end}
    if not left:
        return
    consumer.assign([TopicPartition(kafka.topic(t), p, ranges[t, p][0]) for t, p in left])
    began = heard = time.monotonic()
    try:
        while left:
            if time.monotonic() > min(heard + silent_s, began + timeout_s):
                raise Retryable(f"{len(left)} partitions could not be read to their end")
            first = consumer.poll(_POLL_S)
            if first is None:
                continue
            # Without a time limit: with one, `consume` waits for as many messages as it may return.
            messages = [first, *consumer.consume(most - 1, 0)]
            if batch := [m for m in messages if _is_within(kafka, m, left, raise_errors)]:
                yield batch
            heard = time.monotonic()
    finally:
        consumer.unassign()


def _is_within(kafka: Kafka, message: Message, left: dict[Place, int], raise_errors: bool) -> bool:
    """Whether the message lies in its range; drops from `left` (place -> end) a place that it ends."""
    error = message.error()
    if error is not None and error.code() != KafkaError._PARTITION_EOF:
        if raise_errors:
            raise KafkaException(error)
        return False
    place, offset = place_of(kafka, message)
    end = left.get(place)
    if end is None:
        return False
    if offset + (error is None) >= end:
        del left[place]
    return error is None and offset < end


def read_ranges(
    kafka: Kafka,
    ranges: Mapping[Place, tuple[int, int]],
    handle: Callable[[Message], None],
    timeout_s: float = 60.0,
) -> None:
    """`read_batches` with a consumer of its own, a message at a time; what is trimmed meanwhile is passed over."""
    consumer = kafka.consumer(None, **SHORT_FETCH | {"auto.offset.reset": "earliest"})
    try:
        for batch in read_batches(kafka, consumer, ranges, silent_s=math.inf, timeout_s=timeout_s, raise_errors=False):
            for message in batch:
                handle(message)
    finally:
        consumer.close()


def fetch_record(kafka: Kafka, consumer: Consumer, source: Source, timeout_s: float = ANSWER_S) -> Record | None:
    """The record at `source`, or None when the log does not hold it (any more).

    `consumer` belongs to no group. KafkaException for an error of the partition, Retryable when nothing came in time.
    """
    consumer.assign([TopicPartition(kafka.topic(source.topic), source.partition, source.offset)])
    deadline = time.monotonic() + timeout_s
    try:
        while time.monotonic() < deadline:
            message = consumer.poll(_POLL_S)
            if message is None:
                continue
            error = message.error()
            if error is None:
                record = kafka.record(message)
                return record if record.offset == source.offset else None  # the next one that there is: ours is gone
            if error.code() in _GONE:
                return None
            raise KafkaException(error)
    finally:
        consumer.unassign()
    raise Retryable(f"Kafka did not give the record {source} in time")


def read_record(kafka: Kafka, source: Source) -> Record | None:
    """`fetch_record` with a consumer of its own, which first asks whether the log holds that place at all.

    A source may be forged: a partition that does not exist is None at once, where a fetch would wait in vain.
    """
    consumer = kafka.consumer(None, **SHORT_FETCH)
    try:
        place = (source.topic, source.partition)
        try:
            low, high = log_bounds(kafka, consumer, [place])[place]
        except KafkaException as e:
            if e.args[0].code() in _GONE:
                return None
            raise
        return fetch_record(kafka, consumer, source) if low <= source.offset < high else None
    finally:
        consumer.close()
