"""Reads ranges of the log, single records and offsets, without joining a consumer group.

Used by every role. All functions block. Retryable when Kafka does not answer in time; functions that also let
KafkaException through say so.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, ListOffsetsResultInfo, OffsetSpec  # type: ignore[attr-defined]

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


def error_text(error: KafkaException) -> str:
    return str(error.args[0].str())


def place_of(kafka: Kafka, message: Message) -> tuple[Place, int]:
    """The place and offset of a message, or of the event that a partition's end has been reached."""
    partition, offset = message.partition(), message.offset()
    at = -1 if partition is None else partition
    return (kafka.unprefixed(message.topic() or ""), at), -1 if offset is None else offset


def first_offsets(kafka: Kafka, admin: AdminClient, places: Iterable[Place]) -> dict[Place, int]:
    """The offset of the first record that each place holds; Retryable."""
    return _list_offsets(kafka, admin, places, OffsetSpec.earliest())  # type: ignore[no-untyped-call]


def end_offsets(kafka: Kafka, admin: AdminClient, places: Iterable[Place]) -> dict[Place, int]:
    """The offset up to which each place can be read now (Kafka's last stable offset); Retryable.

    It lies after the last record, or at the first record of a transaction that is still open. A reader that waits for
    it must also count the event that a partition's end has been reached: markers of transactions and the records of
    aborted ones are never delivered.
    """
    return _list_offsets(kafka, admin, places, OffsetSpec.latest())  # type: ignore[no-untyped-call]


def high_watermarks(kafka: Kafka, admin: AdminClient, places: Iterable[Place]) -> dict[Place, int]:
    """The offset after the last record of each place, also where an open transaction keeps it from readers; Retryable.

    For those to whom a record that cannot be read yet matters: no reader gets there before the transaction has ended.
    """
    spec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    return _list_offsets(kafka, admin, places, spec, IsolationLevel.READ_UNCOMMITTED)


def readable_whole(kafka: Kafka, admin: AdminClient, places: Iterable[Place]) -> dict[Place, int]:
    """The ends of places that can be read to their last record; Retryable while an open transaction prevents that.

    For those who decide by what the log does not hold, and would be wrong if it were only hidden.
    """
    readable = end_offsets(kafka, admin, places)
    for (topic, partition), end in hidden_ends(kafka, admin, readable).items():
        raise Retryable(f"an open transaction hides what {topic}/{partition} holds from offset {end} on")
    return readable


def hidden_ends(kafka: Kafka, admin: AdminClient, readable: Mapping[Place, int]) -> dict[Place, int]:
    """Those of the readable ends (`end_offsets`) behind which an open transaction hides records; Retryable."""
    written = high_watermarks(kafka, admin, readable)
    return {place: end for place, end in readable.items() if end < written[place]}


def list_offsets(
    kafka: Kafka,
    admin: AdminClient,
    places: Iterable[Place],
    spec: OffsetSpec,
    isolation: IsolationLevel = IsolationLevel.READ_COMMITTED,
) -> dict[Place, ListOffsetsResultInfo]:
    """Kafka's answer to `spec` for each place: an offset and a timestamp, -1 where there is none; Retryable."""
    asked = {TopicPartition(kafka.topic(t), p): spec for t, p in places}
    try:
        answers = admin.list_offsets(asked, request_timeout=ANSWER_S, isolation_level=isolation) if asked else {}
        return {(kafka.unprefixed(at.topic), at.partition): f.result() for at, f in answers.items()}
    except KafkaException as e:
        refresh_leaders(admin)
        raise Retryable(f"the ends of the log are not known: {error_text(e)}") from None


def _list_offsets(
    kafka: Kafka,
    admin: AdminClient,
    places: Iterable[Place],
    spec: OffsetSpec,
    isolation: IsolationLevel = IsolationLevel.READ_COMMITTED,
) -> dict[Place, int]:
    return {place: at.offset for place, at in list_offsets(kafka, admin, places, spec, isolation).items()}


def committed_offsets(
    kafka: Kafka, consumer: Consumer, places: Iterable[Place], timeout_s: float = ANSWER_S
) -> dict[Place, int]:
    """The committed offsets of the consumer's group, negative where it has committed none; Retryable."""
    return {place: at.offset for place, at in committed(kafka, consumer, places, timeout_s).items()}


def committed(
    kafka: Kafka,
    consumer: Consumer,
    places: Iterable[Place],
    timeout_s: float = ANSWER_S,
    what: str = "the committed offsets",
) -> dict[Place, TopicPartition]:
    """What the consumer's group has committed, offsets and metadata; Retryable, which says that `what` is not known.

    The consumer need not be a member. The admin client is no substitute: librdkafka 2.16.1 aborts the whole process
    when a coordinator's connection breaks during its request (its issues 4605 and 5397).
    """
    asked = [TopicPartition(kafka.topic(t), p) for t, p in places]
    try:
        found = consumer.committed(asked, timeout=timeout_s) if asked else []
    except KafkaException as e:
        raise Retryable(f"{what} are not known: {error_text(e)}") from None
    if broken := [f for f in found if f.error is not None]:
        raise Retryable(f"{what} are not known: {broken[0].error}")
    return {(kafka.unprefixed(f.topic), f.partition): f for f in found}


def offsets_at(kafka: Kafka, consumer: Consumer, since_ms: Mapping[Place, int]) -> dict[Place, int]:
    """Where the records of that time (Unix, by the log's clock) or later begin in each place; without the places that
    have none. KafkaException."""
    asked = [TopicPartition(kafka.topic(t), p, at) for (t, p), at in since_ms.items()]
    found = consumer.offsets_for_times(asked, timeout=ANSWER_S) if asked else []
    return {(kafka.unprefixed(at.topic), at.partition): at.offset for at in found if at.offset >= 0}


def refresh_leaders(admin: AdminClient) -> None:
    """To be called after a failed `list_offsets`: librdkafka 2.16.1 would go on asking with old leader epochs."""
    with contextlib.suppress(KafkaException):
        admin.list_topics(timeout=ANSWER_S)


def log_bounds(
    kafka: Kafka, consumer: Consumer, places: Iterable[Place], timeout_s: float = ANSWER_S
) -> dict[Place, tuple[int, int]]:
    """The first offset of each place and the one up to which it can be read (as `end_offsets`), asked one after
    another; KafkaException."""
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

    `consumer` has no group; it is assigned here, and unassigned at the end. A batch is what has arrived, at most `most`
    messages. A place is finished by its last message or by the event that its partition's end has been reached: the
    last records may be compacted away, or be transaction markers. Retryable when nothing arrives for `silent_s`, or
    when the reading takes longer than `timeout_s`. KafkaException for a partition's error, unless `raise_errors` is
    False; librdkafka then repeats the fetch by itself.
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
    """Whether the message lies in its range. Removes its place from `left` (place -> end) when that is finished."""
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
    """`read_batches` with a consumer of its own, one message at a time; skips what is trimmed meanwhile."""
    consumer = kafka.consumer(None, **SHORT_FETCH | {"auto.offset.reset": "earliest"})
    try:
        for batch in read_batches(kafka, consumer, ranges, silent_s=math.inf, timeout_s=timeout_s, raise_errors=False):
            for message in batch:
                handle(message)
    finally:
        consumer.close()


def fetch_record(kafka: Kafka, consumer: Consumer, source: Source, timeout_s: float = ANSWER_S) -> Record | None:
    """The record at `source`, or None when the log does not hold it.

    `consumer` has no group. KafkaException for a partition's error, Retryable when nothing arrives within `timeout_s`.
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
                return record if record.offset == source.offset else None  # else it is the next one: ours is gone
            if error.code() in _GONE:
                return None
            raise KafkaException(error)
    finally:
        consumer.unassign()
    raise Retryable(f"Kafka did not give the record {source} in time")


def read_record(kafka: Kafka, source: Source) -> Record | None:
    """`fetch_record` with a consumer of its own, after asking whether the log holds that offset.

    A source may be forged: for a partition that does not exist this returns None at once, and a fetch would time out.
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
