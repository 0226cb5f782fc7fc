"""What waits, and whether offsets advance, as Kafka tells it."""

import time
import uuid
from dataclasses import replace

import pytest
from confluent_kafka import TopicPartition

from agents.worker.preflight import check_offsets, wait_for_topics
from headrace.contract.records import Outgoing
from headrace.errors import UsageError
from headrace.kafka.client import Kafka
from headrace.kafka.groups import INTAKE_GROUP
from headrace.kafka.lag import TOPICS, LagWatch
from headrace.kafka.sender import Sender
from headrace.settings import Settings


@pytest.fixture
def kafka(kafka_settings: Settings, topics: str) -> Kafka:
    return Kafka(kafka_settings, "lag-test")


def fill(kafka: Kafka, counts: dict[tuple[str, int], int]) -> None:
    sender = Sender(kafka)
    sender.send_all(
        [Outgoing(t, str(uuid.uuid4()).encode(), b"{}", (), p) for (t, p), n in counts.items() for _ in range(n)], 10
    )
    sender.close()


def commit(kafka: Kafka, offsets: dict[tuple[str, int], int]) -> None:
    consumer = kafka.consumer(INTAKE_GROUP)
    consumer.commit(
        offsets=[TopicPartition(kafka.topic(t), p, at) for (t, p), at in offsets.items()], asynchronous=False
    )
    consumer.close()


def test_what_waits_is_what_is_not_committed_by_topic(kafka: Kafka) -> None:
    watch = LagWatch(kafka, INTAKE_GROUP, list)
    assert (watch.waiting(), watch.age_s()) == (None, None)
    fill(kafka, {("tasks.normal", 0): 5, ("tasks.normal", 1): 2, ("tasks.high", 1): 1})
    watch.refresh()
    assert watch.waiting() == {"tasks.normal": 7, "tasks.high": 1}
    commit(kafka, {("tasks.normal", 0): 4})
    watch.refresh()
    assert watch.waiting() == {"tasks.normal": 3, "tasks.high": 1}
    age = watch.age_s()
    assert age is not None
    assert age < 1


def test_offsets_that_stand_still_with_lag_are_no_health_on_our_own_partitions(
    kafka: Kafka,
) -> None:
    fill(kafka, {("tasks.normal", 0): 3})
    now = time.monotonic()
    ours, theirs = LagWatch(kafka, INTAKE_GROUP, lambda: [("tasks.normal", 0)]), LagWatch(kafka, INTAKE_GROUP, list)
    for watch in (ours, theirs):
        watch._stall_detector._clock = lambda: now
        watch.refresh()
    now += 20
    for watch in (ours, theirs):
        watch.refresh()
    assert "stood still for 20 s with 3 records to go" in (ours.check() or "")
    assert theirs.check() is None
    commit(kafka, {("tasks.normal", 0): 1})
    ours.refresh()
    assert ours.check() is None


def test_what_is_done_beyond_a_commit_held_back_is_not_lag_and_what_lies_behind_it_is(kafka: Kafka) -> None:
    place = ("tasks.normal", 0)
    fill(kafka, {place: 3})
    now, ahead = time.monotonic(), {place: 3}
    watch = LagWatch(kafka, INTAKE_GROUP, lambda: [place], ahead=lambda: ahead)
    watch._stall_detector._clock = lambda: now
    watch.refresh()
    now += 20
    watch.refresh()
    assert watch.check() is None
    assert watch.waiting() == {"tasks.normal": 3, "tasks.high": 0}
    fill(kafka, {place: 2})
    watch.refresh()
    now += 20
    watch.refresh()
    assert "stood still for 20 s with 2 records to go" in (watch.check() or "")


def test_a_group_without_offsets_on_a_trimmed_partition_has_lost_them(kafka: Kafka) -> None:
    fill(kafka, {("tasks.normal", 1): 4})
    watch = LagWatch(kafka, INTAKE_GROUP, list)
    check_offsets(watch, kafka.group(INTAKE_GROUP))
    admin = kafka.admin()
    for done in admin.delete_records([TopicPartition(kafka.topic("tasks.normal"), 1, 3)]).values():
        done.result(10)
    with pytest.raises(UsageError, match=r"has lost its offsets for tasks.normal 1"):
        check_offsets(watch, kafka.group(INTAKE_GROUP))
    commit(kafka, {("tasks.normal", 1): 3})
    check_offsets(watch, kafka.group(INTAKE_GROUP))


def test_waiting_for_topics_looks_after_what_goes_on_meanwhile(kafka: Kafka) -> None:
    wait_for_topics(kafka, TOPICS, lambda: None)

    def fail() -> None:
        raise UsageError("the kinds cannot be loaded")

    with pytest.raises(UsageError, match="the kinds cannot be loaded"):
        wait_for_topics(kafka, ["no.such.topic"], fail)


def test_a_worker_that_starts_while_kafka_is_away_waits_for_the_offsets(
    kafka: Kafka, kafka_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.kafka.lag._ANSWER_S", 0.5)
    away = Kafka(replace(kafka_settings, kafka="127.0.0.1:1"), "lag-test")  # nobody listens on that port
    watches = [LagWatch(away, INTAKE_GROUP, list), LagWatch(kafka, INTAKE_GROUP, list)]
    asked: list[LagWatch] = []

    class Coming:
        """Kafka as it comes back between one question and the next."""

        def lost_offsets(self) -> list[tuple[str, int]]:
            asked.append(watches.pop(0))
            return asked[-1].lost_offsets()

    check_offsets(Coming(), kafka.group(INTAKE_GROUP))  # type: ignore[arg-type]
    assert len(asked) == 2
