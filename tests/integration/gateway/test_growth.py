"""A gateway while the queue grows: it denies no task, an Idempotency-Key stands for its task, and streams go on."""

import time
import uuid

import pytest
from confluent_kafka.admin import AdminClient

from headrace.client import read_events
from headrace.contract.ids import id_of_idempotency_key
from headrace.contract.records import Outgoing
from headrace.kafka.client import Kafka
from headrace.kafka.partitioner import partition_of
from headrace.kafka.sender import Sender
from headrace.kafka.topic_growth import grow_topics
from tests.rigs.gateway import BODY, Gateway, Stage, records_on, submission
from tests.rigs.topics import PARTITIONS

PATIENCE_S = 60.0


@pytest.fixture
def partitions(stage: Stage) -> int:
    """How many the queue shall get: twice as many as it has after the tests before."""
    known = Kafka(stage.settings, "count").admin().list_topics(timeout=30).topics
    return 2 * len(known[stage.settings.topic_prefix + "tasks.normal"].partitions)


def grow(stage: Stage, partitions: int) -> None:
    grow_topics(AdminClient({"bootstrap.servers": stage.settings.kafka}), stage.settings.topic_prefix, partitions)


def wait_found(gw: Gateway, task_id: str) -> None:
    """Until the gateway has read the task's record. It may say that it cannot tell yet, never that there is none."""
    deadline = time.monotonic() + PATIENCE_S
    while (answer := gw.http.get(f"/tasks/{task_id}")).status_code != 200:
        assert answer.status_code == 503, answer.text
        assert answer.json()["type"] == "/problems/catching-up"
        assert time.monotonic() < deadline
    assert answer.json()["status"] == "queued"


def test_a_task_in_a_partition_that_the_view_does_not_follow_yet_is_not_denied(
    stage: Stage, other: Gateway, partitions: int
) -> None:
    grow(stage, partitions)
    sender = Sender(Kafka(stage.settings, "native"))  # knows the new partitions at once
    ids = [str(uuid.uuid4()) for _ in range(partitions)]
    try:
        sender.send_all(Outgoing("tasks.normal", i.encode(), submission(), (), p) for p, i in enumerate(ids))
        for task_id in ids:
            wait_found(stage.gw, task_id)
        for task_id in ids:
            wait_found(other, task_id)
    finally:
        assert sender.close() == 0
    assert stage.gw.http.get(f"/tasks/{uuid.uuid4()}").status_code == 404


def test_an_idempotency_key_from_before_the_growth_stands_for_its_task(
    stage: Stage, other: Gateway, partitions: int
) -> None:
    keys = [uuid.uuid4().hex for _ in range(8)]
    first = {k: stage.gw.http.post("/tasks", json=BODY, headers={"idempotency-key": k}).json()["id"] for k in keys}
    moved = [i for i in first.values() if partition_of(i.encode(), partitions) >= partitions // 2]
    assert first == {k: id_of_idempotency_key("", k) for k in keys}
    grow(stage, partitions)
    late = uuid.uuid4().hex
    for gw in (other, stage.gw):
        for key in (*keys, late):
            deadline = time.monotonic() + PATIENCE_S
            while (answer := gw.http.post("/tasks", json=BODY, headers={"idempotency-key": key})).status_code != 202:
                assert answer.status_code == 503, answer.text
                assert time.monotonic() < deadline
            assert answer.json()["id"] == first.setdefault(key, answer.json()["id"])
    sent = [(r.key or b"").decode() for r in records_on(stage.settings, "tasks.normal")]
    assert {i: sent.count(i) for i in first.values()} == dict.fromkeys(first.values(), 1)
    print(f"{len(moved)} of {len(keys)} ids moved")


def test_a_stream_resumes_across_the_growth(stage: Stage, other: Gateway, partitions: int) -> None:
    before, after = str(uuid.uuid4()), str(uuid.uuid4())
    stage.roles.run(before)
    with stage.gw.http.stream("GET", "/events?directory=demo") as answer:
        begin = answer.headers["last-event-id"]
    grow(stage, partitions)
    stage.roles.run(after)
    with other.http.stream("GET", "/events", headers={"last-event-id": begin}) as answer:
        told = []
        for event in read_events(answer):
            assert event.event != "reset"
            told.append((event.event, event.data["id"]))
            if told[-1] == ("completed", after):
                break
    assert [e for e, i in told if i == after] == ["received", "started", "completed"]
    vector_partitions = {r.partition for r in records_on(stage.settings, "lifecycle.completed")}
    assert vector_partitions <= set(range(PARTITIONS))
