"""The intake's group is made anew, and its generations begin again at 1: claims count in the order of owners all the
same. Kafka forgets a group when it is deleted, when nobody has been in it for long, or when its own log is lost.
"""

import uuid
from pathlib import Path

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

from headrace.contract.journal import Claim, EpochMark, decode_journal, tombstone
from headrace.contract.records import Source
from headrace.contract.task import Task
from headrace.kafka.groups import INTAKE_GROUP
from headrace.kafka.sender import Sender
from headrace.settings import Settings
from tests.faults.processes.victim import Victim
from tests.faults.test_naive_variants import Gate, starts, throw_out, tombstones
from tests.rigs.core import Core, Log, cores, other, record, submission
from tests.rigs.groups import delete_group
from tests.rigs.topics import PARTITIONS


def make_group_anew(log: Log) -> None:
    """Deletes the group, which must have no members, and sets its offsets to the beginning."""
    delete_group(log.kafka, INTAKE_GROUP)
    set_offsets_to_earliest(log)


def set_offsets_to_earliest(log: Log) -> None:
    """As `kafka-consumer-groups.sh --reset-offsets --to-earliest` does."""
    topics = [log.kafka.topic(t) for t in ("tasks.high", "tasks.normal")]
    places = [TopicPartition(topic, p, 0) for topic in topics for p in range(PARTITIONS)]
    asked = ConsumerGroupTopicPartitions(log.kafka.group(INTAKE_GROUP), places)
    for answer in log.kafka.admin().alter_consumer_group_offsets([asked]).values():
        answer.result(30)


def claims_of(log: Log, boot: str) -> list[Claim]:
    return [c for c in map(decode_journal, log.read("tasks.running")) if isinstance(c, Claim) and c.by == boot]


def marks(log: Log) -> list[str]:
    """The boots whose marks are in partition 0, the newest last."""
    return [m.boot for m in map(decode_journal, log.read("tasks.running")) if isinstance(m, EpochMark)]


def wait_second_attempt(core: Core, task_id: str) -> None:
    while (task_id, 2) not in [(j.task.id, j.task.attempt) for j in core.jobs]:
        core.wait_jobs(len(core.jobs) + 1)


def generations(log: Log) -> list[int]:
    return [c.generation for c in map(decode_journal, log.read("tasks.running")) if isinstance(c, Claim)]


def run_in_later_generations(settings: Settings, sender: Sender, ids: list[str]) -> None:
    """Nodes come and go, until one that is not in generation 1 runs the tasks, in partition 0."""
    for _ in range(2):
        early = Core(settings)
        with cores(early):
            while early.intake._consumer.membership is None:
                pass
    core = Core(settings)
    core.end_each()
    with cores(core):
        sender.send_all(record(i, partition=0) for i in ids)
        core.wait_jobs(len(ids))
        Log(settings).wait_no_claims()


def complete_rest(settings: Settings, again: set[str]) -> None:
    """Another node runs everything that is left, until the second attempts of `again` are there."""
    last = Core(settings)
    last.end_each()
    with cores(last):
        while {j.task.id for j in last.jobs if j.task.attempt == 2} != again:
            last.wait_jobs(len(last.jobs) + 1)
        Log(settings).wait_no_claims()


def test_a_task_of_a_group_made_anew_is_replayed_when_its_node_dies(kafka_settings: Settings, sender: Sender) -> None:
    log, ids = Log(kafka_settings), [str(uuid.uuid4()) for _ in range(5)]
    run_in_later_generations(kafka_settings, sender, ids)
    before = min(generations(log))
    make_group_anew(log)
    with Victim(kafka_settings) as victim:
        lost = {victim.wait("job").split()[1] for _ in range(2)}
        victim.kill()
    assert generations(log)[-1] < before
    assert lost == set(ids[:2])
    complete_rest(kafka_settings, lost)
    assert sorted(s for s in starts(log) if s[1] == 2) == sorted((i, 2) for i in lost)
    assert [t.why for t in tombstones(log)].count("reaped") == 2
    assert "void" not in [t.why for t in tombstones(log)]


def test_a_zombie_of_the_old_group_voids_nothing_and_its_late_claim_is_void(
    kafka_settings: Settings, sender: Sender, tmp_path: Path
) -> None:
    gate, log, task_id = Gate("before claim"), Log(kafka_settings), str(uuid.uuid4())
    run_in_later_generations(kafka_settings, sender, [str(uuid.uuid4())])
    zombie = Core(kafka_settings, "node-1", failpoint=gate)
    zombie_boot = zombie.node.boot
    with cores(zombie):
        sender.send_all([record(task_id, partition=0)])
        gate.wait()
        throw_out(zombie)
        make_group_anew(log)
        with Victim(other(kafka_settings, tmp_path / "b"), "node-2") as victim:
            while victim.wait("job").split()[1] != task_id:
                pass
            gate.open()
            while "void" not in [t.why for t in tombstones(log)]:
                pass
            [late] = claims_of(log, zombie_boot)
            [first] = [c for c in log.live_claims() if c.tasks[0].id == task_id]
            assert late.generation > first.generation
            zombie.end_each()
            victim.kill()
        wait_second_attempt(zombie, task_id)
        log.wait_no_claims()
    assert [s for s in starts(log) if s[0] == task_id] == [(task_id, 1), (task_id, 2)]
    assert [t.key.boot for t in tombstones(log) if t.why == "void"] == [zombie_boot]


def test_epoch_that_no_accepted_commit_confirms(kafka_settings: Settings, sender: Sender, tmp_path: Path) -> None:
    """A zombie that has no epoch yet writes its mark late: it is the newest, but the zombie claims nothing under it."""
    gate, log, task_id = Gate("before epoch"), Log(kafka_settings), str(uuid.uuid4())
    zombie = Core(kafka_settings, "node-1", failpoint=gate)
    with cores(zombie):
        sender.send_all([record(task_id, partition=0)])
        gate.wait()
        throw_out(zombie)
        with Victim(other(kafka_settings, tmp_path / "b"), "node-2") as victim:
            victim.wait("job")
            zombie.end_each()
            gate.open()
            while zombie.node.boot not in marks(log):
                pass
            victim.kill()
        wait_second_attempt(zombie, task_id)
        log.wait_no_claims()
    assert [s for s in starts(log) if s[0] == task_id] == [(task_id, 1), (task_id, 2)]


def test_claims_of_an_older_version_void_none_of_a_group_made_anew(kafka_settings: Settings, sender: Sender) -> None:
    log, ids = Log(kafka_settings), [str(uuid.uuid4()) for _ in range(3)]
    sender.send_all(record(i, partition=0) for i in ids)
    tasks = [
        Task(i, submission(), attempt=1, source=Source("tasks.normal", 0, n), submitted_ms=0) for n, i in enumerate(ids)
    ]
    old = [Claim((t,), by="old-boot", for_="old-boot", generation=57, node="old") for t in tasks]
    sender.send_all([c.encode() for c in old])
    sender.send_all([tombstone(c.key, c.generation, "done") for c in old])
    set_offsets_to_earliest(log)
    with Victim(kafka_settings) as victim:
        lost = {victim.wait("job").split()[1] for _ in range(2)}
        victim.kill()
    complete_rest(kafka_settings, lost)
    assert sorted(s for s in starts(log) if s[1] == 2) == sorted((i, 2) for i in lost)
    assert "void" not in [t.why for t in tombstones(log)]
