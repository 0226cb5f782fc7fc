"""Delegation: the partition's owner claims a task of a kind that only another node runs; it starts there, once. While
no such node has room, the tasks behind it go on."""

import time
import uuid
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from agents.membership.death_notices import own_death_notice
from headrace.cli.why.search import find_records
from headrace.cli.why.standing_still import waits_of
from headrace.cli.why.timeline import timeline_of
from headrace.contract.cluster import Cancel
from headrace.contract.journal import Claim, decode_journal
from headrace.contract.outcome import Outcome
from headrace.contract.records import Outgoing
from headrace.kafka.sender import Sender
from headrace.settings import Settings
from tests.faults.test_naive_variants import Gate, starts, throw_out
from tests.rigs.core import PATIENCE_S, WORK, Core, Log, cores, other, record, submission

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


@pytest.fixture
def hasty(kafka_settings: Settings) -> Settings:
    return replace(kafka_settings, aside_s=0.1)


def busy_runner(settings: Settings, folder: Path, name: str = "runner") -> Core:
    """A node with one slot that runs the rare kind and owns no partition. Two claims keep it from room for more."""
    core = Core(other(settings, folder), name, slots=1, kinds=(WORK, RARE))
    core.intake.start = lambda: None  # type: ignore[method-assign]
    return core


def wait_aside(owner: Core, count: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while sum(w.count for w in owner.delegation.waiting.waits()) < count:
        assert time.monotonic() < deadline, owner.delegation.waiting.waits()


def in_one_partition(*kinds: str) -> list[Outgoing]:
    return [record(value=submission(kind), partition=0) for kind in kinds]


def test_tasks_behind_those_of_a_busy_node_go_on_and_those_start_in_their_order_once_it_has_room(
    hasty: Settings, sender: Sender, tmp_path: Path
) -> None:
    owner, runner, log = Core(hasty, "owner"), busy_runner(hasty, tmp_path / "b"), Log(hasty)
    with cores(runner, owner):
        wait_announced(owner)
        owner.end_each()
        rare = in_one_partition(*["rare"] * 6)
        sender.send_all([*rare, *in_one_partition("work", "work")])
        owner.wait_jobs(2)  # while the other node's slot is busy
        wait_aside(owner, 4)
        [first] = runner.wait_jobs(1)
        [wait] = owner.delegation.waiting.waits()
        assert (wait.why, wait.name, wait.count) == ("aside", "rare", 4)
        assert wait.task == (rare[2].key or b"").decode()
        assert "4 tasks wait aside" in wait.text
        task_id = (rare[4].key or b"").decode()
        records = find_records(log.kafka, task_id)
        assert timeline_of(records, task_id)[-1].text.endswith("it begins there once that node has room")
        owner.heartbeats.beat_now()
        deadline = time.monotonic() + PATIENCE_S
        while not (lines := waits_of(log.kafka, records, task_id)):
            assert time.monotonic() < deadline
        assert lines[0].text.startswith("now, by node owner: ")
        assert wait.task in lines[0].text
        runner.end_each()
        runner.end(first)
        runner.wait_jobs(6)
        log.wait_no_claims()
        assert owner.delegation.waiting.waits() == []
    assert [j.task.id for j in runner.jobs] == [(r.key or b"").decode() for r in rare]
    assert {j.task.attempt for j in runner.jobs} == {1}


def test_claims_that_wait_aside_outlive_the_owner(hasty: Settings, sender: Sender, tmp_path: Path) -> None:
    runner, log = busy_runner(hasty, tmp_path / "b"), Log(hasty)
    rare = in_one_partition(*["rare"] * 4)
    with cores(runner):
        owner = Core(hasty, "owner")
        with cores(owner):
            wait_announced(owner)
            sender.send_all(rare)
            wait_aside(owner, 2)
            [first] = runner.wait_jobs(1)
        second = Core(other(hasty, tmp_path / "c"), "second")
        with cores(second):
            sender.send_all([own_death_notice(owner.node, owner.node.boot).encode()])
            runner.end_each()
            runner.end(first)
            runner.wait_jobs(4)
            log.wait_no_claims()
    attempts = {(r.key or b"").decode(): attempt for r, attempt in zip(rare, (1, 1, 2, 2), strict=True)}
    assert {j.task.id: j.task.attempt for j in runner.jobs} == attempts


def test_a_task_that_waits_aside_is_a_dead_letter_once_no_node_has_its_kind(
    hasty: Settings, sender: Sender, tmp_path: Path
) -> None:
    owner, log = Core(hasty, "owner"), Log(hasty)
    with cores(owner):
        runner = busy_runner(hasty, tmp_path / "b")
        with cores(runner):
            wait_announced(owner)
            sender.send_all(in_one_partition(*["rare"] * 4))
            wait_aside(owner, 2)
            runner.wait_jobs(1)
        sender.send_all([own_death_notice(runner.node, runner.node.boot).encode()])
        outcomes = [Outcome.decode(r) for r in log.wait("results", 4)]
        log.wait_no_claims()
    assert {(o.outcome, o.reason) for o in outcomes} == {("failed", "unknown-kind")}


def test_a_task_that_waits_aside_can_be_cancelled(hasty: Settings, sender: Sender, tmp_path: Path) -> None:
    owner, runner, log = Core(hasty, "owner"), busy_runner(hasty, tmp_path / "b"), Log(hasty)
    with cores(runner, owner):
        wait_announced(owner)
        rare = in_one_partition(*["rare"] * 3)
        sender.send_all(rare)
        wait_aside(owner, 1)
        sender.send_all([Cancel((rare[2].key or b"").decode()).encode()])
        [outcome] = [Outcome.decode(r) for r in log.wait("results", 1)]
        assert (outcome.id, outcome.outcome) == ((rare[2].key or b"").decode(), "cancelled")
        [first] = runner.wait_jobs(1)  # before each one ends by itself
        runner.end_each()
        runner.end(first)
        log.wait_no_claims()


def test_when_too_many_wait_aside_the_partition_waits_and_says_so_and_loses_nothing(
    hasty: Settings, sender: Sender, tmp_path: Path
) -> None:
    owner, runner, log = Core(hasty, "owner"), busy_runner(hasty, tmp_path / "b"), Log(hasty)
    owner.delegation.waiting._most = 2
    with cores(runner, owner):
        wait_announced(owner)
        owner.end_each()
        rare = in_one_partition(*["rare"] * 6)
        [last] = in_one_partition("work")
        sender.send_all([*rare, last])
        wait_aside(owner, 2)
        deadline = time.monotonic() + PATIENCE_S
        while not (waits := owner.intake.foreign_heads.waits()):
            assert time.monotonic() < deadline
        [wait] = waits
        assert (wait.why, wait.name, wait.task) == ("head", "rare", (rare[4].key or b"").decode())
        assert "partition 0 of tasks.normal waits" in wait.text
        behind = (last.key or b"").decode()
        while not (lines := waits_of(log.kafka, find_records(log.kafka, behind), behind)):
            assert time.monotonic() < deadline
        assert "partition 0 of tasks.normal waits" in lines[0].text
        sender.send_all([Cancel(wait.task).encode()])  # a head that waits in its place can be cancelled, too
        assert [Outcome.decode(r).id for r in log.wait("results", 1)] == [wait.task]
        [first] = runner.wait_jobs(1)  # before each one ends by itself
        runner.end_each()
        runner.end(first)
        owner.wait_jobs(1)
        log.wait("results", 7)
        log.wait_no_claims()
    assert [j.task.id for j in runner.jobs] == [
        (r.key or b"").decode() for r in rare if (r.key or b"").decode() != wait.task
    ]
