"""The follower of whole topics: where it begins, what counts as read, and how it goes on after each kind of trouble."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest
from confluent_kafka import TopicPartition

from headrace.contract.records import Outgoing, Place, Record
from headrace.errors import Retryable, Undecodable
from headrace.kafka.client import Kafka
from headrace.kafka.follower import Follower
from headrace.kafka.sender import Sender
from headrace.settings import Settings
from tests.rigs.topics import PARTITIONS, grow

TOPIC = "lifecycle.started"
PATIENCE_S = 60.0


class Values(Follower):
    """Keeps the values that it has read, by partition."""

    def __init__(self, kafka: Kafka, starts: Mapping[Place, int] | None = None) -> None:
        super().__init__(kafka, "values", [TOPIC])
        self.values: list[tuple[int, bytes]] = []
        self.lost: list[Place] = []
        self.skipped: list[str] = []
        self.on_undecodable = self.skipped.append
        self._starts = starts or {}
        self.trouble: Callable[[], None] = lambda: None

    def start_positions(self, ends: Mapping[Place, int]) -> Mapping[Place, int]:
        starts, self._starts = self._starts, {}
        return {**self.positions, **starts}

    def apply_record(self, record: Record) -> None:
        if record.value == b"bad":
            raise Undecodable("bad")
        self.values.append((record.partition, record.value or b""))

    def apply_batch(self, records: Sequence[Record], positions: Mapping[Place, int]) -> None:
        self.trouble()
        super().apply_batch(records, positions)

    def position_lost(self, place: Place) -> None:
        self.lost.append(place)


@pytest.fixture
def kafka(kafka_settings: Settings, topics: str) -> Kafka:
    return Kafka(kafka_settings, "following")


@contextmanager
def following(follower: Values) -> Iterator[Values]:
    follower.start()
    try:
        yield follower
    finally:
        follower.close()


def send(sender: Sender, *values: bytes, partition: int = 0) -> None:
    sender.send_all([Outgoing(TOPIC, None, value, partition=partition) for value in values], 30)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_reads_what_is_there_and_what_comes_and_skips_what_it_cannot_read(kafka: Kafka, sender: Sender) -> None:
    send(sender, b"a", b"bad", b"b")
    with following(Values(kafka)) as follower:
        assert follower.wait_caught_up(PATIENCE_S)
        assert follower.positions == {(TOPIC, p): 3 if p == 0 else 0 for p in range(PARTITIONS)}
        send(sender, b"c", partition=1)
        assert follower.wait_read(follower.request_ends(), PATIENCE_S)
        assert follower.values == [(0, b"a"), (0, b"b"), (1, b"c")]
        assert (follower.skipped, follower.check(), follower.failure) == ([TOPIC], None, None)


def test_a_position_that_the_log_has_left_behind_or_never_had_is_lost(kafka: Kafka, sender: Sender) -> None:
    send(sender, b"a", b"b", b"c")
    send(sender, b"x", partition=1)
    admin = kafka.admin()
    [done] = admin.delete_records([TopicPartition(kafka.topic(TOPIC), 0, 2)]).values()
    done.result(30)
    with following(Values(kafka, {(TOPIC, 0): 1, (TOPIC, 1): 1000})) as follower:
        assert follower.wait_caught_up(PATIENCE_S)
        assert sorted(follower.values) == [(0, b"c"), (1, b"x")]
        assert sorted(follower.lost) == [(TOPIC, 0), (TOPIC, 1)]
        assert follower.gaps[TOPIC, 0] == "the offsets 1 to 1 were deleted before they were read"
        assert follower.gaps[TOPIC, 1].startswith("it ends at 1 and had been read to 1000")


def test_an_error_that_passes_is_said_and_the_batch_comes_again(kafka: Kafka, sender: Sender) -> None:
    with following(Values(kafka)) as follower:
        assert follower.wait_caught_up(PATIENCE_S)

        def trouble() -> None:
            raise Retryable("the disk is full")

        follower.trouble = trouble
        send(sender, b"a")
        until(lambda: follower.failure == "the disk is full")
        assert follower.positions[TOPIC, 0] == 0
        follower.trouble = lambda: None
        until(lambda: follower.values == [(0, b"a")])
        until(lambda: follower.failure is None)


def test_partitions_that_are_added_by_hand_are_read_from_their_beginning(kafka: Kafka, sender: Sender) -> None:
    with following(Values(kafka)) as follower:
        send(sender, b"old")
        assert follower.wait_caught_up(PATIENCE_S)
        grow(kafka, TOPIC, PARTITIONS + 1)
        sender.deliver(Outgoing(TOPIC, None, b"new", partition=PARTITIONS)).result(PATIENCE_S)
        until(lambda: follower.values == [(0, b"old"), (PARTITIONS, b"new")])
        assert follower.lost == []


def test_a_missing_topic_is_waited_for(kafka_settings: Settings, make_topics: Callable[..., None]) -> None:
    with following(Values(Kafka(kafka_settings, "following"))) as follower:
        until(lambda: follower.failure is not None)
        assert "headrace topics apply" in (follower.failure or "")
        make_topics(kafka_settings.topic_prefix)
        assert follower.wait_caught_up(PATIENCE_S)


def test_one_that_has_read_everything_already_says_so_at_once(kafka: Kafka, sender: Sender) -> None:
    send(sender, b"a")
    with following(Values(kafka)) as first:
        assert first.wait_caught_up(PATIENCE_S)
        known = dict(first.positions)
    with following(Values(kafka, known)) as again:
        assert again.wait_caught_up(PATIENCE_S), "nothing comes that would wake it"
