"""Reading stretches of the log without a group: all of a range and nothing else, however the log looks."""

import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition

from headrace.contract.records import Outgoing, Place, Source
from headrace.errors import Retryable
from headrace.kafka.client import SHORT_FETCH, Kafka
from headrace.kafka.reading import fetch_record, log_bounds, read_batches, read_ranges, read_record
from headrace.kafka.sender import Sender
from headrace.settings import Settings

ONE, TWO = ("lifecycle.started", 0), ("lifecycle.started", 1)


@pytest.fixture
def kafka(kafka_settings: Settings, topics: str) -> Kafka:
    return Kafka(kafka_settings, "reading")


@pytest.fixture
def consumer(kafka: Kafka) -> Iterator[Consumer]:
    found = kafka.consumer(None, **SHORT_FETCH)
    yield found
    found.close()


def fill(sender: Sender, counts: dict[Place, int]) -> None:
    sender.send_all(
        [
            Outgoing(topic, None, str(n).encode(), partition=p)
            for (topic, p), count in counts.items()
            for n in range(count)
        ],
        30,
    )


def values(
    kafka: Kafka, consumer: Consumer, ranges: dict[Place, tuple[int, int]], most: int = 1000
) -> dict[Place, list[int]]:
    found: dict[Place, list[int]] = {}
    for batch in read_batches(kafka, consumer, ranges, most=most):
        assert 0 < len(batch) <= most
        for record in map(kafka.record, batch):
            found.setdefault((record.topic, record.partition), []).append(int(record.value or b""))
    return found


def trim(kafka: Kafka, place: Place, before: int) -> None:
    admin, at = kafka.admin(), TopicPartition(kafka.topic(place[0]), place[1], before)
    [done] = admin.delete_records([at]).values()
    done.result(10)


def test_each_range_comes_whole_in_order_and_alone(kafka: Kafka, sender: Sender, consumer: Consumer) -> None:
    fill(sender, {ONE: 300, TWO: 20})
    assert log_bounds(kafka, consumer, [ONE, TWO]) == {ONE: (0, 300), TWO: (0, 20)}
    assert values(kafka, consumer, {ONE: (7, 290), TWO: (0, 20)}, most=50) == {
        ONE: list(range(7, 290)),
        TWO: list(range(20)),
    }
    # With the same consumer again: nothing is left over from before.
    assert values(kafka, consumer, {ONE: (299, 300), TWO: (5, 5)}) == {ONE: [299]}
    assert values(kafka, consumer, {ONE: (9, 3)}) == {}
    assert values(kafka, consumer, {}) == {}


def test_a_range_may_end_in_what_is_never_delivered(
    kafka: Kafka, kafka_settings: Settings, sender: Sender, consumer: Consumer
) -> None:
    fill(sender, {ONE: 3})
    producer = Producer({"bootstrap.servers": kafka_settings.kafka, "transactional.id": kafka.prefix})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(kafka.topic(ONE[0]), b"9", partition=ONE[1])
    producer.flush(30)
    producer.abort_transaction(30)
    deadline = time.monotonic() + 30
    # Three records, one that is taken back, and the marker that says so, which the broker writes after it has answered.
    while (bounds := log_bounds(kafka, consumer, [ONE])) != {ONE: (0, 5)}:
        assert time.monotonic() < deadline, bounds
    assert values(kafka, consumer, bounds) == {ONE: [0, 1, 2]}


def test_what_was_trimmed_meanwhile_is_an_error_or_passed_over(
    kafka: Kafka, sender: Sender, consumer: Consumer
) -> None:
    fill(sender, {ONE: 10})
    trim(kafka, ONE, 4)
    with pytest.raises(KafkaException):
        values(kafka, consumer, {ONE: (0, 10)})
    found: list[int] = []
    read_ranges(kafka, {ONE: (0, 10), TWO: (0, 0)}, lambda m: found.append(int(m.value() or b"")))
    assert found == list(range(4, 10))


def test_an_end_that_does_not_come_is_waited_for_no_longer_than_asked(
    kafka: Kafka, sender: Sender, consumer: Consumer
) -> None:
    """As after a leader's change, for a moment: the partition seems to end before the end that was asked for."""
    fill(sender, {ONE: 3})
    found: list[Message] = []
    with pytest.raises(Retryable, match="1 partitions"):
        found.extend(m for batch in read_batches(kafka, consumer, {ONE: (0, 5)}, silent_s=3.0) for m in batch)
    assert len(found) == 3
    with pytest.raises(Retryable):
        read_ranges(kafka, {ONE: (0, 5)}, lambda _: None, timeout_s=0.5)


def test_a_record_is_found_at_its_place_or_is_none(kafka: Kafka, sender: Sender, consumer: Consumer) -> None:
    fill(sender, {ONE: 5})
    trim(kafka, ONE, 2)
    places = {3: True, 2: True, 1: False, 5: False, 77: False}
    for offset, there in places.items():
        source = Source(*ONE, offset)
        for record in (fetch_record(kafka, consumer, source), read_record(kafka, source)):
            assert (record is not None and record.value == str(offset).encode()) is there, offset
    for forged in (Source(ONE[0], 999, 0), Source("no.such.topic", 0, 0)):
        assert read_record(kafka, forged) is None
