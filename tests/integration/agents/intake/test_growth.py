"""Nodes take new partitions of the queue without a restart, and drop there what an older partition has had.

docs/design/0038, docs/protocol.md (rule D).
"""

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from agents.membership.death_notices import own_death_notice
from headrace.contract.records import Outgoing
from headrace.contract.states import Cause
from headrace.contract.task import Task
from headrace.kafka.partition_counts import PartitionCounts
from headrace.kafka.partitioner import partition_of
from headrace.kafka.sender import Sender
from headrace.kafka.topic_growth import grow_topics
from headrace.kafka.topics import add_partitions
from headrace.settings import Settings
from tests.rigs.core import Core, Log, cores, other, record
from tests.rigs.topics import PARTITIONS

MANY = 2 * PARTITIONS
Grow = Callable[[], object]


@pytest.fixture
def admin(broker: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": broker})


@pytest.fixture
def grow(admin: AdminClient, topics: str) -> Grow:
    return lambda: grow_topics(admin, topics, MANY)


def moving_id(child: int = MANY - 1) -> str:
    """An id that the growth moves into that partition."""
    while partition_of((task_id := str(uuid.uuid4())).encode(), MANY) != child:
        pass
    return task_id


def new_record(topic: str = "tasks.normal", task_id: str | None = None) -> Outgoing:
    return record(task_id or moving_id(), topic=topic, partition=MANY - 1)


def test_running_nodes_take_the_new_partitions_and_claim_from_them(
    kafka_settings: Settings, sender: Sender, grow: Grow, tmp_path: Path
) -> None:
    nodes = [Core(kafka_settings, "node-1", slots=8), Core(other(kafka_settings, tmp_path / "b"), "node-2", slots=8)]
    with cores(*nodes):
        sender.send_all(record(partition=p) for p in range(PARTITIONS))
        nodes[0].end_each()
        nodes[1].end_each()
        grow()
        sender.send_all(record(topic=t, partition=p) for t in ("tasks.normal", "tasks.high") for p in range(MANY))
        log = Log(kafka_settings)
        log.wait("results", PARTITIONS + 2 * MANY)
        log.wait_no_claims()
        owned = [place for node in nodes for place in node.intake.places]
        assert sorted(owned) == [(t, p) for t in ("tasks.high", "tasks.normal") for p in range(MANY)]
        assert {p for t, p in nodes[0].intake.places if t == "tasks.high"} == {
            p for t, p in nodes[0].intake.places if t == "tasks.normal"
        }


@pytest.mark.parametrize("when", ["it has ended", "it waits"])
@pytest.mark.parametrize("topic", ["tasks.normal", "tasks.high"])
def test_a_repeat_of_a_record_from_before_the_growth_never_runs(
    kafka_settings: Settings, sender: Sender, grow: Grow, topic: str, when: str
) -> None:
    core, task_id = Core(kafka_settings, slots=1), moving_id()
    first, repeat = record(task_id, topic=topic, partition=(MANY - 1) % PARTITIONS), new_record(topic, task_id)
    with cores(core):
        if when == "it waits":
            sender.send_all([record(partition=0)])
            [busy] = core.wait_jobs(1)
        sender.send_all([first])
        if when == "it has ended":
            core.end(core.wait_jobs(1)[0])
        grow()
        sender.send_all([repeat, new_record(topic)])  # the second one shows that the first has been judged
        if when == "it waits":
            core.end(busy)
            core.end(core.wait_jobs(2)[-1])
        core.end(core.wait_jobs(3 if when == "it waits" else 2)[-1])
        Log(kafka_settings).wait_no_claims()
        assert [job.task.id for job in core.jobs].count(task_id) == 1
        assert core.count("repeated_tasks") == 1


def test_the_owner_of_a_new_partition_does_not_look_into_the_older_one(
    kafka_settings: Settings, sender: Sender, grow: Grow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the rule the repeat runs: what the test above would find."""
    monkeypatch.setattr(PartitionCounts, "parents", lambda *_: [])
    core, task_id = Core(kafka_settings, slots=1), moving_id()
    with cores(core):
        sender.send_all([record(task_id, partition=(MANY - 1) % PARTITIONS)])
        core.end(core.wait_jobs(1)[0])
        grow()
        sender.send_all([new_record(task_id=task_id)])
        core.end(core.wait_jobs(2)[1])
        assert [job.task.id for job in core.jobs] == [task_id, task_id]


def test_a_partition_that_comes_late_is_no_lost_offset(
    kafka_settings: Settings, sender: Sender, admin: AdminClient, topics: str
) -> None:
    """Brokers may tell of one task topic's new partitions before the other's: claims are in the journal by then, and
    records are in the late one before any node has it."""
    core, log = Core(kafka_settings), Log(kafka_settings)
    with cores(core):
        sender.send_all(record(partition=p) for p in range(PARTITIONS))
        for job in core.wait_jobs(PARTITIONS):
            core.end(job)
        for topic in ("tasks.running", "tasks.high"):
            add_partitions(admin, {topics + topic: MANY})
        sender.send_all([new_record("tasks.high")])
        core.end(core.wait_jobs(PARTITIONS + 1)[-1])
        log.wait_no_claims()
        core.intake.drain()  # nobody has the partitions while the last topic grows
        add_partitions(admin, {topics + "tasks.normal": MANY})
        sender.send_all([new_record()])
    late = Core(kafka_settings)
    with cores(late):
        late.end(late.wait_jobs(1)[0])
        assert late.jobs[0].task.source.topic == "tasks.normal"


def test_a_claim_in_a_new_partition_is_sent_again_when_its_node_dies(
    kafka_settings: Settings, sender: Sender, grow: Grow, tmp_path: Path
) -> None:
    dying, log, task_id = Core(kafka_settings, slots=1), Log(kafka_settings), moving_id()
    with cores(dying):
        grow()
        sender.send_all([new_record(task_id=task_id)])
        [job] = dying.wait_jobs(1)
        assert job.task.source.partition == MANY - 1
        with cores(Core(other(kafka_settings, tmp_path / "b"), "node-2", slots=1)):
            sender.send_all([own_death_notice(dying.node, dying.node.boot).encode()])
            [replay] = log.wait("tasks.high", 1)
    task = Task.from_record(replay)
    assert (task.id, task.attempt, task.ledger[-1].cause) == (task_id, 2, Cause.NODE_LOSS)
    assert replay.partition in (MANY - 1, (MANY - 1) % PARTITIONS)  # the latter if its client has not heard yet
