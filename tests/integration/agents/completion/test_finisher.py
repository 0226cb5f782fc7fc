"""The finisher on a real broker: large and small results, failures, budgets, cancels, drains."""

import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from agents.execution.job import AttemptEnd
from headrace.contract.cluster import Cancel
from headrace.contract.ledger import Failure
from headrace.contract.outcome import CHUNK_BYTES, Outcome
from headrace.contract.records import Outgoing, Source
from headrace.contract.states import Cause
from headrace.contract.task import Task
from headrace.kafka.sender import Sender, Sent
from headrace.settings import Settings
from tests.rigs.core import Core, Log, cores, record, submission


@pytest.fixture
def core(kafka_settings: Settings, topics: str) -> Iterator[Core]:
    core = Core(kafka_settings)
    with cores(core):
        yield core


@pytest.fixture
def log(kafka_settings: Settings) -> Log:
    return Log(kafka_settings)


def test_a_big_result_goes_in_chunks_and_its_file_goes_away(
    core: Core, log: Log, sender: Sender, tmp_path: Path
) -> None:
    file, content = tmp_path / "result", os.urandom(3 * CHUNK_BYTES + 17)
    file.write_bytes(content)
    sender.send_all([record()])
    core.end(core.wait_jobs(1)[0], result_file=file, content_type="application/octet-stream", suffix=".bin")
    outcomes = [Outcome.decode(r) for r in log.read("results")]
    assert [(o.chunk, o.chunks) for o in outcomes] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert all(len(o.value) <= CHUNK_BYTES for o in outcomes)
    assert hashlib.sha256(b"".join(o.value for o in outcomes)).digest() == hashlib.sha256(content).digest()
    assert not file.exists()
    log.wait_no_claims()


def test_a_failed_attempt_is_made_again_at_high_priority_until_its_budget_is_used_up(
    core: Core, log: Log, sender: Sender
) -> None:
    task_id = str(uuid.uuid4())
    sender.send_all([record(task_id, submission(max_attempts=2))])
    core.end(core.wait_jobs(1)[0], cause=Cause.ERROR, detail="ValueError: one")
    second = core.wait_jobs(2)[1]
    assert (second.task.source.topic, second.task.attempt) == ("tasks.high", 2)
    core.end(second, cause=Cause.ERROR, detail="ValueError: two")
    [outcome] = [Outcome.decode(r) for r in log.read("results")]
    assert (outcome.outcome, outcome.reason, outcome.error) == ("failed", "failed", "ValueError: two")
    assert [(f.attempt, f.cause, f.detail) for f in outcome.ledger] == [
        (1, Cause.ERROR, "ValueError: one"),
        (2, Cause.ERROR, "ValueError: two"),
    ]
    log.wait_no_claims()


def test_foreign_headers_travel_through_every_attempt(core: Core, log: Log, sender: Sender) -> None:
    first = record()
    foreign = (("traceparent", b"00-abc"),)
    sender.send_all([type(first)(first.topic, first.key, first.value, foreign)])
    core.end(core.wait_jobs(1)[0], cause=Cause.PROCESS_DEATH, detail="killed by SIGKILL")
    core.end(core.wait_jobs(2)[1])
    [outcome] = [Outcome.decode(r) for r in log.read("results")]
    assert outcome.foreign == foreign


def test_a_delayed_retry_keeps_its_claim_and_takes_no_slot(core: Core, log: Log, sender: Sender) -> None:
    task_id, value = str(uuid.uuid4()), submission(max_attempts=9)
    ledger = tuple(Failure(n, Cause.PROCESS_DEATH, node="node-1", started_ms=1, ended_ms=2) for n in (1, 2, 3))
    before = Task(
        task_id, value, attempt=3, source=Source("tasks.high", 0, 0), submitted_ms=1, ledger=ledger[:2]
    ).next_attempt(ledger[2])
    sender.send_all([before])
    core.end(core.wait_jobs(1)[0], cause=Cause.PROCESS_DEATH, detail="again")
    assert core.slots.used == 0
    [claim] = log.live_claims()
    assert [f.attempt for f in claim.tasks[0].ledger] == [1, 2, 3, 4]
    assert len(log.read("tasks.high")) == 1
    assert core.intake.drain()
    core.close_finisher()  # as a drain does: it is sent now
    [replay] = [r for r in log.read("tasks.high") if r.offset == 1]
    assert replay.number("attempt") == 5
    log.wait_no_claims()


def test_a_running_task_that_is_cancelled_ends_as_cancelled(core: Core, log: Log, sender: Sender) -> None:
    task_id = str(uuid.uuid4())
    sender.send_all([record(task_id)])
    [job] = core.wait_jobs(1)
    sender.send_all([Cancel(task_id).encode()])
    while not core.cancellations.is_cancelled(task_id):
        pass
    core.end(job, cause=Cause.PROCESS_DEATH, detail="cancelled")
    [outcome] = [Outcome.decode(r) for r in log.read("results")]
    assert (outcome.outcome, outcome.reason) == ("cancelled", "cancelled")
    assert log.read("tasks.high") == []
    log.wait_no_claims()


def test_an_attempt_cut_short_by_a_drain_is_sent_again_and_not_charged(core: Core, log: Log, sender: Sender) -> None:
    sender.send_all([record(value=submission(max_attempts=1))])
    core.end(core.wait_jobs(1)[0], cause=Cause.DRAIN, detail="the node was drained")
    again = core.wait_jobs(2)[1]
    assert (again.task.attempt, again.task.ledger[0].cause) == (2, Cause.DRAIN)
    core.end(again)
    log.wait_no_claims()


def test_nothing_is_sent_for_a_boot_that_is_over(core: Core, log: Log, sender: Sender, tmp_path: Path) -> None:
    file = tmp_path / "result"
    file.write_bytes(b"x")
    sender.send_all([record()])
    [job] = core.wait_jobs(1)
    core.node.begin_boot(str(uuid.uuid4()))
    core.end(job, result_file=file)
    assert log.read("results") == []
    assert not file.exists()
    assert core.slots.used == 0


def test_an_end_is_not_told_twice_when_the_claims_end_fails(
    kafka_settings: Settings, topics: str, log: Log, sender: Sender
) -> None:
    trouble = [OSError(28, "No space left on device")]

    def fails_once(step: str) -> None:
        if step == "before tombstone" and trouble:
            raise trouble.pop()

    core = Core(kafka_settings, "trouble", failpoint=fails_once)
    with cores(core):
        sender.send_all([record()])
        [job] = core.wait_jobs(1)
        soon = core.end_soon(job)
        with pytest.raises(OSError, match="No space left"):
            soon.result(60)
        core.finish_again(job, cause=Cause.NODE_LOSS, detail="the node could not report it")
        log.wait_no_claims()
        assert len(log.read("results")) == 1
        assert log.read("tasks.high") == []


def completed(**how: Any) -> AttemptEnd:
    return AttemptEnd(1, 2, **(how or {"value": b"ok", "content_type": "text/plain", "suffix": ".txt"}))


def test_attempts_that_end_together_have_their_outcomes_and_then_their_claims_end(
    core: Core, log: Log, sender: Sender
) -> None:
    sender.send_all([record(), record()])
    jobs = core.wait_jobs(2)
    assert core.end_together([(job, completed()) for job in jobs]) == []
    outcomes = [Outcome.decode(r) for r in log.read("results")]
    assert sorted(o.id for o in outcomes) == sorted(job.task.id for job in jobs)
    assert len(log.read("lifecycle.started")) == 2
    log.wait_no_claims()


def test_what_is_no_completed_attempt_with_a_small_result_is_left_for_its_own_turn(
    core: Core, log: Log, sender: Sender, tmp_path: Path
) -> None:
    (tmp_path / "result").write_bytes(b"large")
    sender.send_all([record(), record()])
    one, other = core.wait_jobs(2)
    ended = [(one, completed(result_file=tmp_path / "result")), (other, AttemptEnd.now(Cause.ERROR, "ValueError"))]
    assert core.end_together(ended) == [one, other]
    assert not log.read("results")
    core.end(one)
    core.end(other)
    log.wait_no_claims()


@pytest.mark.parametrize("step", ["before outcome", "before tombstone"])
def test_an_error_among_attempts_that_end_together_ends_no_claim_too_early_and_none_twice(
    kafka_settings: Settings, topics: str, log: Log, sender: Sender, step: str
) -> None:
    calls: list[str] = []

    def fail_once(name: str) -> None:
        calls.append(name)
        if name == step and calls.count(name) == 2:
            raise OSError("an error that no rule foresaw")

    core = Core(kafka_settings, slots=1, tiny=["work"], failpoint=fail_once)
    sender.send_all([record(partition=0) for _ in range(4)])
    with cores(core):
        jobs = core.wait_jobs(4)
        assert [len(group) for group in core.groups] == [4]
        left = core.end_together([(job, completed()) for job in jobs])
        assert left
        assert len(log.live_claims()) == 1, "a claim lasts as long as one of its tasks"
        for job in left:
            core.end(job)
        assert {Outcome.decode(r).id for r in log.read("results")} == {job.task.id for job in jobs}
        log.wait_no_claims()


def test_an_outcome_without_an_answer_holds_up_no_other_attempt_that_ends_with_it(
    core: Core, log: Log, sender: Sender
) -> None:
    sender.send_all([record(), record()])
    one, other = core.wait_jobs(2)
    send, stuck = core.sender.send, Future[tuple[str, int, int]]()

    def withhold(outgoing: Outgoing, **how: Any) -> Sent:
        return stuck if outgoing.topic == "results" and outgoing.key == one.task.id.encode() else send(outgoing, **how)

    core.sender.send = withhold  # type: ignore[method-assign]
    assert core.end_together([(one, completed()), (other, completed())]) == [one]
    while [c.tasks[0].id for c in log.live_claims()] != [one.task.id]:
        time.sleep(0.05)  # the test's own time limit ends this
    stuck.set_result(("results", 0, 0))
    core.end(one)  # waits for the answer, and sends no second outcome
    log.wait_no_claims()
    assert [Outcome.decode(r).id for r in log.read("results")] == [other.task.id]
