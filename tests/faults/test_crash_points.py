"""The crash points of docs/protocol.md: a node is killed at each, its next process starts, and there is one outcome."""

import time
import uuid
from collections import Counter

import pytest

from headrace.contract.ledger import Failure
from headrace.contract.lifecycle import Event
from headrace.contract.outcome import Outcome
from headrace.contract.states import Cause
from headrace.kafka.sender import Sender
from headrace.settings import Settings
from tests.faults.processes.victim import Victim
from tests.rigs.core import Core, Log, cores, record

# failpoint -> the attempts that start in both processes; a claim that was never effective costs none
PLACES = {
    "before claim": [1],
    "before commit": [1],
    "after commit": [2],
    "before start": [2],
    "before outcome": [1, 2],
}


@pytest.mark.parametrize("place", PLACES)
def test_node_killed_there_still_ends_the_task_once(place: str, kafka_settings: Settings, sender: Sender) -> None:
    task_id, log = str(uuid.uuid4()), Log(kafka_settings)
    with Victim(kafka_settings, attempts="complete", failpoints={place: ("kill", 1)}) as victim:
        victim.wait("ready")
        sender.send_all([record(task_id)])
        victim.wait(f"at {place}")
        victim.wait_end()
    killed = time.monotonic()
    core = Core(kafka_settings)
    core.end_each()
    with cores(core):
        log.wait("results", 1)
        print(f"{place}: {time.monotonic() - killed:.2f} s")
        log.wait_no_claims()
    [outcome] = [Outcome.decode(r) for r in log.read("results")]
    starts = [Event.decode(r).attempt for r in log.read("lifecycle.started")]
    assert (outcome.id, outcome.outcome) == (task_id, "completed")
    assert starts == PLACES[place]
    assert core.slots.used == 0


def test_node_killed_before_its_tombstone_runs_it_in_vain_at_most(kafka_settings: Settings, sender: Sender) -> None:
    task_id, log = str(uuid.uuid4()), Log(kafka_settings)
    with Victim(kafka_settings, attempts="complete", failpoints={"before tombstone": ("kill", 1)}) as victim:
        victim.wait("ready")
        sender.send_all([record(task_id)])
        victim.wait_end()
    core = Core(kafka_settings)
    core.end_each()
    with cores(core):
        outcomes = [Outcome.decode(r) for r in log.wait("results", 2)]
        log.wait_no_claims()
    assert [o.attempt for o in outcomes] == [1, 2]  # the storekeeper takes the first
    assert {o.id for o in outcomes} == {task_id}


@pytest.mark.parametrize("place", ["before commit", "after commit", "before outcome", "before tombstone"])
def test_node_killed_in_the_middle_of_a_micro_batch_loses_no_task(
    place: str, kafka_settings: Settings, sender: Sender
) -> None:
    """All members are on one claim: those that had ended run once more, in vain."""
    ids, log = [str(uuid.uuid4()) for _ in range(30)], Log(kafka_settings)
    nth = 7 if place == "before outcome" else 1
    sender.send_all(record(task_id, partition=n % 2) for n, task_id in enumerate(ids))
    with Victim(
        kafka_settings, slots=1, attempts="complete", failpoints={place: ("kill", nth)}, tiny=["work"]
    ) as victim:
        victim.wait(f"at {place}")
        victim.wait_end()
    core = Core(kafka_settings, tiny=["work"])
    core.end_each()
    with cores(core):
        log.wait_no_claims()
        deadline = time.monotonic() + 20
        while {o.id for o in map(Outcome.decode, log.read("results"))} != set(ids):
            assert time.monotonic() < deadline, "some tasks have no outcome"
        log.wait_no_claims()
    starts = Counter((e.id, e.attempt) for e in map(Event.decode, log.read("lifecycle.started")))
    assert set(starts.values()) == {1}
    assert max(attempt for _, attempt in starts) <= 2


def test_the_loss_of_a_node_is_in_the_ledger_and_charged_to_no_budget(kafka_settings: Settings, sender: Sender) -> None:
    log = Log(kafka_settings)
    with Victim(kafka_settings) as victim:
        victim.wait("ready")
        sender.send_all([record()])
        victim.wait("job")
        victim.kill()
    core = Core(kafka_settings)
    with cores(core):
        [job] = core.wait_jobs(1)
        [loss] = job.task.ledger
        assert isinstance(loss, Failure)
        assert (loss.cause, loss.attempt, loss.node, job.task.attempt) == (Cause.NODE_LOSS, 1, "node-1", 2)
        core.end(job)
        log.wait_no_claims()
