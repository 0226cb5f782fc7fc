"""The receiver agent against a real broker: what it announces, what it leaves out, and what survives a crash."""

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from confluent_kafka import Message, TopicPartition

from agents.faust_kit.app import make_app, running
from agents.monitoring.protocol_metrics import ProtocolMetrics
from agents.receiver.consumer import ReceiverConsumer
from agents.receiver.received_index import ReceivedIndex
from agents.receiver.receiver import Receiver
from headrace.contract.ids import id_of_source
from headrace.contract.ledger import Failure
from headrace.contract.lifecycle import Event
from headrace.contract.records import Outgoing, Source
from headrace.contract.states import Cause
from headrace.contract.task import Task
from headrace.kafka.client import Kafka
from headrace.kafka.groups import RECEIVER_GROUP
from headrace.kafka.sender import Sender
from headrace.kafka.trimming import delete_records
from headrace.settings import Settings
from infra.local.process import free_port
from tests.rigs.groups import MadeAnew
from tests.rigs.reading import read_until
from tests.rigs.topics import PARTITIONS

GOOD = orjson.dumps({"name": "prime", "payload": {"upper_bound": 10}, "directory": "demo"})


@pytest.fixture
def kafka(kafka_settings: Settings, topics: str) -> Kafka:
    return Kafka(kafka_settings, "receiver-test")


@asynccontextmanager
async def receiving(kafka: Kafka, settings: Settings, folder: Path) -> AsyncIterator[ProtocolMetrics]:
    async with running_receiver(kafka, settings, folder) as (_, metrics):
        yield metrics


@asynccontextmanager
async def running_receiver(
    kafka: Kafka, settings: Settings, folder: Path
) -> AsyncIterator[tuple[Receiver, ProtocolMetrics]]:
    sender = Sender(kafka)
    app = make_app(RECEIVER_GROUP, settings, kafka, f"127.0.0.1:{free_port()}", folder)
    metrics = ProtocolMetrics()
    receiver = Receiver(kafka, sender, metrics)
    receiver.attach(app)
    async with running(app):
        receiver.start()
        yield receiver, metrics
    await asyncio.to_thread(receiver.close)
    sender.close()


def count(metrics: ProtocolMetrics, name: str) -> int:
    return int(metrics.registry.get_sample_value(f"headrace_worker_{name}_total") or 0)


def normal(key: str | None, value: bytes | None = GOOD, **headers: str) -> Outgoing:
    return Outgoing(
        "tasks.normal", key.encode() if key else None, value, tuple((k, v.encode()) for k, v in headers.items())
    )


async def announced(kafka: Kafka, count: int) -> list[Event]:
    records = await asyncio.to_thread(read_until, kafka, "lifecycle.received", count)
    return [Event.decode(r) for r in records]


async def test_every_task_is_announced_once_with_what_can_be_decoded(
    kafka: Kafka, kafka_settings: Settings, tmp_path: Path
) -> None:
    http, native, garbage, forged, replayed = (str(uuid.uuid4()) for _ in range(5))
    sender = Sender(kafka)
    replay = Task(replayed, GOOD, attempt=1, source=Source("tasks.normal", 0, 0), submitted_ms=5).next_attempt(
        Failure(1, Cause.ERROR, node="n", started_ms=1, ended_ms=2)
    )
    places = sender.send_all(
        [
            normal(http, via="http", traceparent="00-1"),
            normal(native, via="a lie"),
            normal(garbage, b"\xff{"),
            normal(None),
            normal("no uuid", None),
            Outgoing("tasks.high", forged.encode(), GOOD, (("attempt", b"-4"),)),
            replay,
            normal(http, via="http"),
        ],
        10,
    )
    async with receiving(kafka, kafka_settings, tmp_path) as metrics:
        events = {e.id: e for e in await announced(kafka, 6)}
        await until(lambda: count(metrics, "received_repeats") == 1)
    sender.close()
    keyless, odd = id_of_source(*places[3]), id_of_source(*places[4])
    assert set(events) == {http, native, garbage, keyless, odd, forged}
    assert {i: e.via for i, e in events.items()} == dict.fromkeys(events, "kafka") | {http: "http"}
    assert (events[http].name, events[http].directory) == ("prime", "demo")
    assert (events[garbage].name, events[garbage].directory) == ("", "")
    assert events[http].source == "/".join(map(str, places[0]))


async def test_a_receiver_after_a_crash_announces_nothing_twice(
    kafka: Kafka, kafka_settings: Settings, tmp_path: Path
) -> None:
    ids = [str(uuid.uuid4()) for _ in range(50)]
    sender = Sender(kafka)
    sender.send_all([normal(i) for i in ids], 10)
    async with receiving(kafka, kafka_settings, tmp_path):
        await announced(kafka, 50)
    # as after a crash before the commit: the same records come again, and one more
    rewind(kafka)
    late = str(uuid.uuid4())
    sender.send_all([normal(late)], 10)
    async with receiving(kafka, kafka_settings, tmp_path) as again:
        events = await announced(kafka, 51)
        await until(lambda: count(again, "received_repeats") == 50)
    sender.close()
    assert sorted(e.id for e in events) == sorted([*ids, late])
    assert count(again, "received_tasks") == 1


async def test_a_receiver_is_ready_when_it_has_read_what_is_announced_whether_or_not_tasks_come(
    kafka: Kafka, kafka_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, add = threading.Event(), ReceivedIndex._add_message

    def slow(index: ReceivedIndex, message: Message) -> None:
        assert go_on.wait(60)
        add(index, message)

    monkeypatch.setattr(ReceivedIndex, "_add_message", slow)
    sender = Sender(kafka)
    sender.send_all([Outgoing("lifecycle.received", str(uuid.uuid4()).encode(), b"") for _ in range(40)], 30)
    sender.close()
    async with running_receiver(kafka, kafka_settings, tmp_path) as (receiver, _):
        try:
            says = "takes over 4 partitions of tasks.high and tasks.normal: reads the log: 0 %, 40 records to go"
            await until(lambda: receiver.check() == says)
        finally:
            go_on.set()
        await until(lambda: receiver.check() is None)


async def test_the_index_keeps_the_newest_ids_and_reads_on_where_it_stopped(kafka: Kafka, topics: str) -> None:
    ids = [str(uuid.uuid4()) for _ in range(40)]
    sender = Sender(kafka)
    sender.send_all([Outgoing("lifecycle.received", i.encode(), i.encode()) for i in ids], 10)
    index = ReceivedIndex(kafka, max_ids=40)
    read = index.catch_up()
    assert 0 < read <= 40
    sender.send_all([Outgoing("lifecycle.received", b"no id", b"")], 10)
    assert index.catch_up() == 1
    assert sum(not index.add_new_id(i) for i in ids) == read
    for _ in range(100):
        assert index.add_new_id(str(uuid.uuid4()))
    assert index.add_new_id(ids[0]), "what is older than the window is forgotten, and takes no memory"
    index.close()
    sender.close()


def rewind(kafka: Kafka) -> None:
    """Takes the receiver group's offsets back to the beginning."""
    from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

    places = [TopicPartition(kafka.topic(t), p, 0) for t in ("tasks.normal", "tasks.high") for p in range(PARTITIONS)]
    admin = kafka.admin()
    answer = admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(kafka.group(RECEIVER_GROUP), places)])
    for done in answer.values():
        done.result()


async def until(met: "asyncio.Future[bool] | object", timeout_s: float = 60.0) -> None:
    assert callable(met)
    async with asyncio.timeout(timeout_s):
        while not met():  # noqa: ASYNC110 - the receiver only counts, there is no event to wait for
            await asyncio.sleep(0.02)


def test_a_receiver_whose_next_tasks_are_gone_stops_and_says_which(kafka: Kafka, sender: Sender) -> None:
    sender.send_all([Outgoing("tasks.normal", None, GOOD, partition=0)] * 3, 30)
    before = kafka.consumer(RECEIVER_GROUP)
    before.commit(offsets=[TopicPartition(kafka.topic("tasks.normal"), 0, 1)], asynchronous=False)
    before.close()
    delete_records(kafka, kafka.admin(), {("tasks.normal", 0): 2})
    failed = threading.Event()
    consumer = ReceiverConsumer(kafka, lambda _: None)
    consumer.on_failure = lambda _: failed.set()
    consumer.start()
    try:
        assert failed.wait(60)
        assert "partition 0: the offsets 1 to 1 were deleted before it has read them" in str(consumer.failure)
        assert consumer.check() is not None
    finally:
        consumer.close()


def test_an_assignment_by_a_group_made_anew_is_another_generation(kafka: Kafka) -> None:
    """Kafka's generations begin again: steps of an earlier one of that number must not settle anything in this one."""
    begun: list[int] = []
    anew = MadeAnew(kafka, RECEIVER_GROUP, lambda: consumer._consumer)
    consumer = ReceiverConsumer(kafka, lambda batch: begun.append(batch.generation), lambda _, m: anew.on_member(m))
    consumer.start()
    try:
        assert anew.again.wait(60)
        assert anew.generations == [1, 1]
        first, second = begun
        assert first != second
        assert consumer.is_current(second)
        assert not consumer.is_current(first)
    finally:
        consumer.close()
