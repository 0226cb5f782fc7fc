"""Delegation: the partition's owner claims a task of a kind that only another node runs; it starts there, once."""

import uuid
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.contract.cluster import Cancel
from headrace.contract.journal import Claim, decode_journal
from headrace.contract.outcome import Outcome
from headrace.kafka.sender import Sender
from headrace.settings import Settings
from tests.faults.test_naive_variants import Gate, starts, throw_out
from tests.rigs.core import WORK, Core, Log, cores, other, record, submission

RARE = replace(WORK, name="rare")


@pytest.fixture
def owner(kafka_settings: Settings) -> Core:
    return Core(kafka_settings, "owner")


@pytest.fixture
def runner(kafka_settings: Settings, tmp_path: Path) -> Core:
    """A node that runs the rare kind and owns no partition."""
    core = Core(other(kafka_settings, tmp_path / "b"), "runner", kinds=(WORK, RARE))
    core.intake.start = lambda: None  # type: ignore[method-assign]
    return core


def wait_announced(owner: Core, kind: str = "rare") -> None:
    while kind not in owner.registry.announced():
        pass


def test_such_tasks_run_on_the_node_that_has_the_kind_and_hold_up_no_others(
    kafka_settings: Settings, sender: Sender, owner: Core, runner: Core
) -> None:
    log = Log(kafka_settings)
    with cores(runner, owner):
        wait_announced(owner)
        owner.end_each()
        runner.end_each()
        rare = [record(value=submission("rare")) for _ in range(12)]
        sender.send_all([r for pair in zip(rare, (record() for _ in rare), strict=True) for r in pair])
        runner.wait_jobs(12)
        owner.wait_jobs(12)
        log.wait("results", 24)
        log.wait_no_claims()
    assert {j.submission.name for j in runner.jobs} == {"rare"}
    assert {j.submission.name for j in owner.jobs} == {"work"}
    assert set(Counter(j.task.id for j in runner.jobs).values()) == {1}
    assert (owner.slots.used, runner.slots.used) == (0, 0)


def test_a_claim_for_another_node_is_not_started_before_its_confirmation(
    kafka_settings: Settings, sender: Sender, runner: Core
) -> None:
    """The owner is a zombie: its claim for the other node is void, and it never writes `go`."""
    gate, log, task_id = Gate("before commit"), Log(kafka_settings), str(uuid.uuid4())
    owner = Core(kafka_settings, "owner", failpoint=gate)
    with cores(runner, owner):
        wait_announced(owner)
        sender.send_all([record(task_id, submission("rare"))])
        gate.wait()
        [claim] = [c for c in map(decode_journal, log.read("tasks.running")) if isinstance(c, Claim)]
        assert (claim.for_, claim.phase) == (runner.node.boot, "claimed")
        throw_out(owner)
        assert runner.jobs == []
        gate.open()
        [job] = runner.wait_jobs(1)  # by a second claim, of a later generation
        assert job.claim.generation > claim.generation
        runner.end(job)
        log.wait_no_claims()
    assert starts(log) == [(task_id, 1)]


def test_the_runners_death_after_go_is_repaired_from_the_journal(
    kafka_settings: Settings, sender: Sender, owner: Core, tmp_path: Path
) -> None:
    log = Log(kafka_settings)
    settings = other(kafka_settings, tmp_path / "b")
    runner = Core(settings, "runner", kinds=(WORK, RARE))
    runner.intake.start = lambda: None  # type: ignore[method-assign]
    second = Core(other(kafka_settings, tmp_path / "c"), "second", kinds=(WORK, RARE))
    second.intake.start = lambda: None  # type: ignore[method-assign]
    with cores(owner):
        with cores(runner):
            wait_announced(owner)
            sender.send_all([record(value=submission("rare"))])
            runner.wait_jobs(1)
        with cores(second):
            from agents.membership.death_notices import own_death_notice

            wait_announced(owner)
            sender.send_all([own_death_notice(runner.node, runner.node.boot).encode()])
            [again] = second.wait_jobs(1)
            assert again.task.attempt == 2
            second.end(again)
            log.wait_no_claims()


def test_a_cancel_that_comes_between_claim_and_go_is_obeyed(
    kafka_settings: Settings, sender: Sender, runner: Core
) -> None:
    gate, log, task_id = Gate("before go"), Log(kafka_settings), str(uuid.uuid4())
    owner = Core(kafka_settings, "owner", failpoint=gate)
    with cores(runner, owner):
        wait_announced(owner)
        sender.send_all([record(task_id, submission("rare"))])
        gate.wait()
        sender.send_all([Cancel(task_id).encode()])
        gate.open()
        [outcome] = [Outcome.decode(r) for r in log.wait("results", 1)]
        assert outcome.outcome == "cancelled"
        log.wait_no_claims()
        assert runner.jobs == []
