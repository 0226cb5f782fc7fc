"""The intake on a real broker: what is claimed, in which order, and what becomes of what cannot be."""

import uuid
from collections import Counter

import pytest

from headrace.kafka import Kafka, Sender
from headrace.messages import Outcome
from headrace.settings import Settings
from tests.core_rig import Core, Log, cores, record


@pytest.fixture
def sender(kafka_settings: Settings, topics: str) -> Sender:
    sender = Sender(Kafka(kafka_settings, "test"))
    yield sender
    sender.close()


def test_a_task_is_claimed_committed_run_and_reported(kafka_settings: Settings, sender: Sender) -> None:
    log, core, task_id = Log(kafka_settings), Core(kafka_settings), str(uuid.uuid4())
    with cores(core):
        sender.send_all([record(task_id)])
        [job] = core.wait_jobs(1)
        [claim] = log.live_claims()
        assert claim == job.claim
        assert claim.tasks[0].id == task_id
        assert log.committed()["tasks.normal", job.task.source.partition] == job.task.source.offset + 1
        core.end(job)
        [outcome] = [Outcome.decode(r) for r in log.read("results")]
        assert (outcome.id, outcome.outcome, outcome.value, outcome.boot) == (
            task_id,
            "completed",
            b"ok",
            core.node.boot,
        )
        log.wait_no_claims()
        assert len(log.read("lifecycle.started")) == 1
        assert core.slots.used == 0


def test_no_more_is_claimed_than_slots_are_free(kafka_settings: Settings, sender: Sender) -> None:
    log, core = Log(kafka_settings), Core(kafka_settings, slots=2)
    sender.send_all(record() for _ in range(20))
    with cores(core):
        first = core.wait_jobs(2)
        assert len(log.live_claims()) == 2
        core.end(first[0])
        core.wait_jobs(3)
        while len(log.live_claims()) > 2:  # the tombstone of the first is on its way
            pass
        assert len(log.live_claims()) == 2


def test_a_backlog_larger_than_every_buffer_runs_once_each(kafka_settings: Settings, sender: Sender) -> None:
    core, count = Core(kafka_settings, slots=64), 6000
    sender.send_all(record() for _ in range(count))
    with cores(core):
        core.end_each()
        core.wait_jobs(count, 60)
    assert set(Counter(job.task.id for job in core.jobs).values()) == {1}
