"""A partition that takes long to be taken over holds back no other one, and `/readyz` names it; on a real broker."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from headrace.contract.records import Outgoing
from headrace.settings import Settings
from tests.rigs.storekeeper import Rig, completed, failed, id_in_partition, installation, terminate, wait_for

DONE = "lifecycle.completed"
EVENTS = 6000  # more than go through SQLite


@pytest.fixture
def rig(broker: str, tmp_path: Path) -> Iterator[Rig]:
    with installation(broker, tmp_path) as rig:
        yield rig


def open_transaction(settings: Settings, partition: int) -> Producer:
    """A transaction that hides what the storekeeper's output holds in the partition, until it is aborted."""
    name = f"{settings.topic_prefix}{uuid.uuid4()}"
    producer = Producer({"bootstrap.servers": settings.kafka, "transactional.id": name})
    producer.init_transactions(60)
    producer.begin_transaction()
    producer.produce(f"{settings.topic_prefix}{DONE}", b"no task", None, partition)
    assert producer.flush(60) == 0
    return producer


def test_a_partition_that_cannot_be_read_holds_no_other_back(rig: Rig) -> None:
    hiding = open_transaction(rig.settings, 0)
    held, free = completed(id=id_in_partition(0)), completed(id=id_in_partition(1))
    rig.send(held, free)
    rig.start()
    assert [e.id for e in rig.events(free.id)] == [free.id]
    wait_for(lambda: "storekeeper: takes over results/0: Kafka: an open" in rig.ready().text, "the reason")
    assert rig.ready().status_code == 503

    hiding.abort_transaction(60)
    assert {e.id for e in rig.events(free.id, held.id)} == {free.id, held.id}
    wait_for(lambda: rig.ready().status_code == 200, "ready")
    wait_for(lambda: rig.committed(0) == 1 and rig.committed(1) == 1, "both committed")


@pytest.fixture
def ended(rig: Rig) -> list[str]:
    """Ids of partition 0 that have ended long ago, by another storekeeper."""
    ids = [id_in_partition(0) for _ in range(EVENTS)]
    rig.sender.send_all([Outgoing(DONE, i.encode(), i.encode(), (), 0) for i in ids], 60)
    return ids


def test_a_long_takeover_of_a_partition_holds_no_other_back(rig: Rig, ended: list[str], tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    process = rig.start("-m", "tests.rigs.slow_takeover", str(go_on))
    wait_for(go_on.with_suffix(".began").exists, "the long reading")
    repeated = [failed(id=ended[0]), completed(id=ended[-1])]
    held, free = completed(id=id_in_partition(0)), [completed(id=id_in_partition(p)) for p in (1, 1, 1)]
    rig.send(*repeated, held, *free)
    events = rig.events(*(o.id for o in free))
    assert len(events) == EVENTS + 3, "nothing of partition 0 is judged before its takeover is done"
    text = rig.ready().text
    assert "storekeeper: takes over results/0: reads the log: " in text, text
    assert "stood still" not in text

    go_on.touch()
    events = rig.events(held.id)
    assert len(events) == EVENTS + 4
    wait_for(lambda: rig.ready().status_code == 200, "ready")
    assert rig.metric("headrace_outcomes_passed_over_total") == 2
    assert terminate(process) == 0
    assert rig.committed(0) == 3


def test_a_takeover_that_is_under_way_ends_with_the_role_and_is_done_by_the_next_one(
    rig: Rig, ended: list[str], tmp_path: Path
) -> None:
    go_on = tmp_path / "go-on"
    process = rig.start("-m", "tests.rigs.slow_takeover", str(go_on))
    wait_for(go_on.with_suffix(".began").exists, "the long reading")
    process.kill()
    process.wait()
    held = completed(id=id_in_partition(0))
    rig.send(completed(id=ended[5]), held)
    rig.start()
    assert len(rig.events(held.id)) == EVENTS + 1
