"""The sender on a real broker: no call waits for room, and what Kafka refuses keeps its owner.

A broker that cannot be reached stands for an outage of any length, and a small queue for a long one.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from headrace.contract.records import Outgoing
from headrace.errors import Refused, Retryable
from headrace.kafka.client import Kafka
from headrace.kafka.sender import Sender
from headrace.settings import Settings
from infra.local.process import free_port
from tests.rigs.core import PATIENCE_S, Log
from tests.rigs.topics import PROBE, UNLIMITED, limit_records

SMALL_QUEUE = {"queue.buffering.max.messages": 10}


@pytest.fixture
def kafka(kafka_settings: Settings, topics: str) -> Kafka:
    return Kafka(kafka_settings, "sender-test")


@pytest.fixture
def away(kafka_settings: Settings) -> Kafka:
    """A Kafka that nobody can reach."""
    return Kafka(replace(kafka_settings, kafka=f"127.0.0.1:{free_port()}"), "sender-test")


def until(met: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not met():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.mark.timeout(60)
async def test_an_event_loop_sends_through_an_outage_and_never_waits_for_room(away: Kafka) -> None:
    sender = Sender(away, **SMALL_QUEUE)
    try:
        sent = [sender.send(Outgoing("results", b"key", b"%d" % n)) for n in range(1000)]
        await asyncio.sleep(0)
        assert not any(s.done() for s in sent)
        assert sender.close(0.1) == 1000
    finally:
        sender.close(0)


@pytest.mark.timeout(60)
def test_what_waits_for_room_fails_at_the_time_limit_too(away: Kafka) -> None:
    sender = Sender(away, timeout_s=0.5, **SMALL_QUEUE)
    sent = [sender.send(Outgoing("results", b"key", b"%d" % n)) for n in range(50)]
    for s in sent:
        assert isinstance(s.exception(PATIENCE_S), Retryable)
    assert sender.close(0) == 0


def test_what_waits_for_room_is_sent_in_its_order(kafka: Kafka, kafka_settings: Settings) -> None:
    sender = Sender(kafka, **SMALL_QUEUE)
    values = [b"%d" % n for n in range(2000)]
    for sent in [sender.send(Outgoing("results", b"key", value, partition=0)) for value in values]:
        sent.result(PATIENCE_S)
    assert [r.value for r in Log(kafka_settings).read("results")] == values
    assert sender.close() == 0


def test_a_caller_that_serves_the_sender_itself_gets_its_waiting_records_sent(
    kafka: Kafka, kafka_settings: Settings
) -> None:
    sender = Sender(kafka, own_thread=False, **SMALL_QUEUE)
    sent = [sender.send(Outgoing("results", b"key", b"%d" % n, partition=0)) for n in range(200)]
    deadline = time.monotonic() + PATIENCE_S
    while not all(s.done() for s in sent):
        assert time.monotonic() < deadline
        sender.serve(0.1)
    assert len(Log(kafka_settings).read("results")) == 200
    assert sender.close() == 0


def test_a_refused_record_is_its_callers_with_what_to_change(kafka: Kafka) -> None:
    limit_records(kafka, "results", 10)
    sender = Sender(kafka)
    with pytest.raises(Refused, match=r"results.*too large.*raise the topic's max.message.bytes"):
        sender.send(Outgoing("results", b"key", b"value")).result(PATIENCE_S)
    assert "refuses a record" in (sender.check() or "")
    sender.close()


def test_a_record_for_a_missing_topic_says_how_to_create_it(kafka: Kafka) -> None:
    sender = Sender(kafka, **{"topic.metadata.propagation.max.ms": 500})
    with pytest.raises(Refused, match=r"no-such-topic.*headrace topics apply"):
        sender.send(Outgoing("no-such-topic", b"key", b"value")).result(PATIENCE_S)
    sender.close()


def test_a_delivered_record_outlasts_the_refusal_and_keeps_the_order_of_its_key(
    kafka: Kafka, kafka_settings: Settings
) -> None:
    limit_records(kafka, "results", 200)
    sender = Sender(kafka)
    large, small = b"x" * 300, b"after it"
    first = sender.deliver(Outgoing("results", b"key", large, partition=0))
    until(sender.check, "the role is not ready")
    second = sender.deliver(Outgoing("results", b"key", small, partition=0))
    other = sender.deliver(Outgoing("results", b"other", small, partition=0))
    other.result(PATIENCE_S)
    with pytest.raises(Refused, match="same key"):
        sender.send(Outgoing("results", b"key", b"overtakes")).result(PATIENCE_S)
    assert not first.done()
    assert not second.done()
    limit_records(kafka, "results", UNLIMITED)
    second.result(PATIENCE_S)
    assert [(r.key, r.value) for r in Log(kafka_settings).read("results") if r.key != PROBE] == [
        (b"other", small),
        (b"key", large),
        (b"key", small),
    ]
    assert sender.close() == 0


def test_a_delivered_record_that_nobody_wants_any_more_is_dropped(kafka: Kafka) -> None:
    limit_records(kafka, "results", 10)
    sender, is_wanted = Sender(kafka), True
    sent = sender.deliver(Outgoing("results", b"key", b"value"), wanted=lambda: is_wanted)
    until(sender.check, "it is refused")
    assert not sent.cancelled()
    is_wanted = False
    until(sent.cancelled, "it is dropped")
    assert sender.close() == 0


def test_a_client_that_has_failed_for_good_is_made_anew(kafka: Kafka, kafka_settings: Settings) -> None:
    """With this option a refusal is fatal to librdkafka's client: each later record fails at once."""
    limit_records(kafka, "results", 200)
    sender = Sender(kafka, **{"enable.gapless.guarantee": True})
    failed = sender._producer
    delivered = sender.deliver(Outgoing("results", b"key", b"x" * 300))
    until(lambda: sender._producer is not failed, "a new client")
    limit_records(kafka, "results", UNLIMITED)
    delivered.result(PATIENCE_S)  # by a later client: each refusal is fatal to one
    assert sender.send(Outgoing("lifecycle.started", b"key", b"value")).result(PATIENCE_S)[0] == "lifecycle.started"
    assert [r.key for r in Log(kafka_settings).read("results") if r.key != PROBE] == [b"key"]
    assert sender.close() == 0
