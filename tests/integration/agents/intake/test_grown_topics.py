"""A node whose topics get partitions while it runs: it sees what is written there, and nobody restarts it."""

import time
import uuid
from collections.abc import Callable
from dataclasses import replace

from agents.intake.cancellations import Cancellations
from agents.membership.identity import NodeIdentity
from headrace.contract.cluster import Cancel
from headrace.contract.journal import Claim, ClaimKey, tombstone
from headrace.contract.records import Outgoing, Source
from headrace.contract.task import Task
from headrace.kafka.client import Kafka
from headrace.kafka.sender import Sender
from headrace.settings import Settings
from tests.rigs.core import PATIENCE_S, Core, cores, submission
from tests.rigs.topics import PARTITIONS, grow


def until(condition: Callable[[], object], message: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.02)


def deliver_to_new_partition(sender: Sender, record: Outgoing) -> None:
    """The sender knows the topic already, and learns of the new partition by itself."""
    sender.deliver(replace(record, partition=PARTITIONS)).result(PATIENCE_S)


def test_a_cancel_in_a_new_partition_is_seen_without_a_restart(
    kafka_settings: Settings, topics: str, sender: Sender
) -> None:
    kafka, task_id = Kafka(kafka_settings, "test"), str(uuid.uuid4())
    told: list[str] = []
    cancellations = Cancellations(kafka, kafka_settings.data / "control.db", told.append)
    cancellations.start()
    try:
        sender.send_all([Cancel(str(uuid.uuid4())).encode()])
        assert cancellations.wait_caught_up(PATIENCE_S)
        grow(kafka, "tasks.control", PARTITIONS + 1)
        deliver_to_new_partition(sender, Cancel(task_id).encode())
        until(lambda: task_id in told, "the cancel was not seen")
        assert cancellations.is_cancelled(task_id)
        assert cancellations.wait_until_read(cancellations.request_ends(), lambda: False)
        assert cancellations.positions["tasks.control", PARTITIONS] == 1
    finally:
        cancellations.close()


def test_a_go_in_a_new_partition_is_seen_without_a_restart(kafka_settings: Settings, topics: str) -> None:
    core = Core(kafka_settings)
    with cores(core):
        assert core.delegation.wait_caught_up(PATIENCE_S)
        core.sender.send_all([tombstone(ClaimKey(str(uuid.uuid4()), Source("tasks.normal", 0, 0), "old"), 1, "done")])
        grow(core.kafka, "tasks.running", PARTITIONS + 1)
        owner = NodeIdentity("owner", kafka_settings.data)
        source = Source("tasks.normal", PARTITIONS, 0)
        task = Task(str(uuid.uuid4()), submission(), attempt=1, source=source, submitted_ms=0)
        claim = Claim((task,), by=owner.boot, for_=core.node.boot, generation=1, node="owner")
        deliver_to_new_partition(core.sender, claim.encode())
        deliver_to_new_partition(core.sender, claim.go().encode())
        [job] = core.wait_jobs(1)
        assert job.task.id == task.id
        core.end(job)
