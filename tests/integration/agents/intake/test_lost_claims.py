"""An error between a claim and the hand-over of its job: the task goes to its next attempt, or the boot ends."""

import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from agents.intake.claim_commit import ClaimCommit
from headrace.contract.states import Cause
from headrace.kafka.sender import Sender
from headrace.settings import Settings
from tests.rigs.core import WORK, Core, Log, cores, other, record, submission

AWAY = KafkaException(KafkaError(KafkaError._ALL_BROKERS_DOWN))  # type: ignore[arg-type]


def fail_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception) -> None:
    """The next call raises `error`."""
    method: Callable[..., Any] = getattr(owner, name)
    is_over = threading.Event()

    def failing(*arguments: Any, **named: Any) -> Any:
        if is_over.is_set():
            return method(*arguments, **named)
        is_over.set()
        raise error

    monkeypatch.setattr(owner, name, failing)


@pytest.mark.parametrize("name", ["wait_until_read", "is_cancelled", "hand_over"])
def test_a_claimed_job_that_cannot_be_handed_over_goes_to_its_next_attempt(
    kafka_settings: Settings, topics: str, sender: Sender, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    core, log, task_id = Core(kafka_settings), Log(kafka_settings), str(uuid.uuid4())
    owner, method = (core.intake._starter, "_hand_over") if name == "hand_over" else (core.cancellations, name)
    fail_once(monkeypatch, owner, method, AWAY)
    with cores(core):
        sender.send_all([record(task_id)])
        [job] = core.wait_jobs(1)
        assert (job.task.id, job.task.attempt) == (task_id, 2)
        [lost] = job.task.ledger
        assert (lost.cause, lost.node) == (Cause.NODE_LOSS, "node-1")
        assert lost.detail.startswith("the node could not hand over the attempt: KafkaException")
        core.end(job)
        log.wait_no_claims()
        assert core.slots.used == 0
        assert core.intake.failure is None


def test_of_a_micro_batch_only_the_job_that_met_the_error_is_sent_again(
    kafka_settings: Settings, topics: str, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, log = Core(kafka_settings, slots=1, tiny=["work"]), Log(kafka_settings)
    sender.send_all([record(partition=0) for _ in range(8)])
    fail_once(monkeypatch, core.cancellations, "is_cancelled", ValueError("broken"))
    core.end_each()
    with cores(core):
        log.wait("results", 8)
        log.wait_no_claims()
        assert sorted(job.task.attempt for job in core.wait_jobs(8)) == [1] * 7 + [2]


def test_claims_whose_commit_ends_in_an_unforeseen_error_are_left_to_the_reaper_with_this_boot(
    kafka_settings: Settings, topics: str, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, failed = Core(kafka_settings), threading.Event()
    core.intake.on_failure = lambda _: failed.set()
    fail_once(monkeypatch, ClaimCommit, "commit", AWAY)
    with cores(core):
        sender.send_all([record()])
        assert failed.wait(60)
        assert core.intake.failure is not None
        assert "claims stay in doubt" in core.intake.failure
        assert core.jobs == []


def test_claims_in_doubt_are_resolved_when_kafka_answers_again(
    kafka_settings: Settings, topics: str, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, log = Core(kafka_settings), Log(kafka_settings)
    fail_once(monkeypatch, ClaimCommit, "_effective", AWAY)
    monkeypatch.setattr(core.intake._claims, "commit", lambda *_: None)  # every commit is in doubt
    with cores(core):
        sender.send_all([record()])
        while not core.metrics.registry.get_sample_value("headrace_worker_void_claims_total"):
            pass  # nothing was committed: the claim is found void
        monkeypatch.undo()
        core.end(core.wait_jobs(1)[0])
        log.wait_no_claims()
        assert core.intake.failure is None


def test_a_claim_of_another_node_that_cannot_start_is_tried_until_it_does_and_readiness_says_so(
    kafka_settings: Settings, topics: str, sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rare = WORK.from_json(WORK.to_json() | {"name": "rare"})
    owner = Core(kafka_settings, "owner")
    runner = Core(other(kafka_settings, tmp_path / "b"), "runner", kinds=(WORK, rare))
    runner.intake.start = lambda: None  # type: ignore[method-assign]
    broken, log = threading.Event(), Log(kafka_settings)
    read = runner.cancellations.wait_until_read

    def wait_until_read(*arguments: Any) -> bool:
        if not broken.is_set():
            raise AWAY
        return read(*arguments)

    monkeypatch.setattr(runner.cancellations, "wait_until_read", wait_until_read)
    with cores(runner, owner):
        while "rare" not in owner.registry.announced():
            pass
        sender.send_all([record(value=submission("rare"))])
        while not (said := runner.delegation.check()):
            pass
        assert "cannot be started: KafkaException" in said
        assert runner.jobs == []
        broken.set()
        [job] = runner.wait_jobs(1)
        assert job.task.attempt == 1
        runner.end(job)
        log.wait_no_claims()
        while runner.delegation.check():
            pass


@pytest.mark.parametrize("step", ["judging", "asking where the control log ends", "claiming", "giving back"])
def test_records_of_a_turn_that_failed_are_pulled_again_and_not_passed_over(
    kafka_settings: Settings, topics: str, sender: Sender, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    core, log = Core(kafka_settings, slots=1), Log(kafka_settings)
    owner, name = {
        "judging": (core.intake._admission, "judge"),
        "asking where the control log ends": (core.cancellations, "request_ends"),
        "claiming": (core.intake._claims, "send_records"),
        "giving back": (core.intake._consumer, "seek_back"),
    }[step]
    fail_once(monkeypatch, owner, name, AWAY)
    if step == "giving back":  # because claims were not acknowledged in time
        answers = iter([False])
        acknowledged = core.intake._claims.wait_acknowledged
        monkeypatch.setattr(
            core.intake._claims, "wait_acknowledged", lambda sent: acknowledged(sent) and next(answers, True)
        )
    ids = [str(uuid.uuid4()) for _ in range(4)]
    sender.send_all([record(task_id, partition=0) for task_id in ids])
    with cores(core):
        for count in range(1, len(ids) + 1):
            core.end(core.wait_jobs(count)[-1])
        assert [job.task.id for job in core.jobs] == ids
        assert {job.task.attempt for job in core.jobs} == {1}
        log.wait_no_claims()
        assert core.intake.failure is None
