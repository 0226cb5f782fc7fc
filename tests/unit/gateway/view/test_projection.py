"""The fold of one task's records, in every order in which their topics can be read."""

from dataclasses import replace
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from gateway.view.projection import (
    TaskView,
    fold_event,
    fold_redrive,
    fold_submission,
    id_bytes,
    id_text,
    partition_and_offset,
    place_of,
)
from headrace.contract.cluster import Redriven
from headrace.contract.ledger import Failure
from headrace.contract.lifecycle import Event
from headrace.contract.records import Source
from headrace.contract.states import Cause, Reason, Status
from headrace.contract.task import Task

ID = "0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a11"
SOURCE = Source("tasks.normal", 3, 17)
NONE = ""
TASK = Task(ID, b"{}", attempt=1, source=SOURCE, submitted_ms=1000)
RECEIVED = Event(
    "lifecycle.received",
    ID,
    1010,
    name="prime",
    directory="demo",
    via="http",
    source=str(SOURCE),
    submitted_ms=1000,
    partition=3,
    offset=1,
)
STARTED = replace(RECEIVED, topic="lifecycle.started", at_ms=1100, attempt=1, node="n1", offset=5)
AGAIN = replace(STARTED, at_ms=1200, attempt=2, node="n2", offset=6)
COMPLETED = replace(
    RECEIVED,
    topic="lifecycle.completed",
    at_ms=1300,
    attempt=2,
    node="n2",
    file="demo/x.json",
    size=9,
    sha256="ab",
    content_type="application/json",
    queued_ms=100,
    duration_ms=150,
    offset=2,
)
FAILED = replace(RECEIVED, topic="tasks.dead", at_ms=1300, reason=Reason.CRASHED, error="killed", offset=4)


def fold(*records: Task | Event) -> TaskView:
    task = None
    for record in records:
        if isinstance(record, Task):
            task = fold_submission(task, record, "prime", "demo", "d").task
        else:
            task = fold_event(task, record, NONE).task
    assert task is not None
    return task


def essence(task: TaskView) -> tuple[object, ...]:
    attempts = [(a.attempt, a.node, a.started_ms) for a in task.attempts]
    places = task.received_place, task.started_place, task.ended_place
    times = task.submitted_ms, task.started_ms, task.ended_ms
    return task.name, task.directory, task.status, times, places, task.file, task.source, task.digest, attempts


def test_of_two_bodies_under_one_id_the_one_that_decided_is_the_task() -> None:
    copy = replace(TASK, source=Source("tasks.normal", 1, 4))
    received = replace(RECEIVED, name="other", directory="elsewhere", source=str(copy.source), offset=2)
    for order in permutations([TASK, RECEIVED, received, STARTED, COMPLETED]):
        task = None
        for record in order:
            if isinstance(record, Task):
                task = fold_submission(task, record, "prime", "demo", NONE).task
            else:
                task = fold_event(task, record, NONE).task
        assert task is not None
        assert (task.name, task.directory, task.status) == ("prime", "demo", Status.COMPLETED)


def test_every_order_of_the_topics_leads_to_the_same_task() -> None:
    # Within a topic the order is given: a second start never comes before the first.
    orders = [o for o in permutations([TASK, RECEIVED, STARTED, AGAIN, COMPLETED]) if o.index(STARTED) < o.index(AGAIN)]
    assert len({repr(essence(fold(*o))) for o in orders}) == 1
    assert fold(*orders[0]).status is Status.COMPLETED


def test_each_step_shows_the_furthest_state() -> None:
    assert fold(TASK).status is Status.QUEUED
    assert not fold(TASK).announced
    assert fold(TASK, RECEIVED).announced
    assert fold(TASK, STARTED).status is Status.RUNNING
    assert fold(COMPLETED, STARTED, RECEIVED, TASK).status is Status.COMPLETED
    assert fold(TASK, FAILED).status is Status.FAILED
    assert fold(TASK, replace(FAILED, reason=Reason.CANCELLED)).status is Status.CANCELLED


@given(st.lists(st.sampled_from([TASK, RECEIVED, STARTED, AGAIN, COMPLETED]), min_size=1, max_size=12))
def test_repeats_change_nothing(records: list[Task | Event]) -> None:
    once = list(dict.fromkeys(records))
    assert essence(fold(*records)) == essence(fold(*once))


def test_the_first_terminal_event_stands_and_a_different_one_is_an_alarm() -> None:
    task = fold(TASK, FAILED)
    second = fold_event(task, COMPLETED, NONE)
    assert second.conflict == "failed and then completed"
    assert not second.is_event
    assert second.task.status is Status.FAILED
    assert fold_event(task, replace(FAILED, offset=9), NONE).conflict == ""


def test_only_the_first_record_of_an_id_is_an_event() -> None:
    task = fold(TASK)
    assert fold_event(task, STARTED, NONE).is_event
    assert not fold_event(task, AGAIN, NONE).is_event
    assert not fold_event(task, replace(STARTED, offset=7), NONE).is_event


def test_a_second_submission_of_an_id_changes_nothing() -> None:
    task = fold_submission(None, TASK, "prime", "demo", "first").task
    later = replace(TASK, source=Source("tasks.normal", 3, 18))
    task = fold_submission(task, later, "other", "elsewhere", "second").task
    assert (task.name, task.directory, task.digest, task.source) == ("prime", "demo", "first", str(SOURCE))


def test_a_replay_brings_the_outcomes_of_the_attempts_before_it() -> None:
    failure = Failure(1, Cause.PROCESS_DEATH, node="n1", started_ms=1100, ended_ms=1150, detail="killed by SIGKILL")
    replay = replace(TASK, attempt=2, ledger=(failure,), source=Source("tasks.high", 3, 0))
    task = fold(TASK, STARTED, replay)
    assert task.status is Status.RUNNING
    [attempt] = task.attempts
    assert (attempt.cause, attempt.ended_ms, attempt.detail) == ("process-death", 1150, "killed by SIGKILL")


@given(st.integers(0, 32_000), st.integers(0, 2**47))
def test_partition_and_offset_is_the_inverse_of_place_of(partition: int, offset: int) -> None:
    assert partition_and_offset(place_of(partition, offset)) == (partition, offset)
    assert 0 <= place_of(partition, offset) < 2**63


def test_id_text_is_the_inverse_of_id_bytes() -> None:
    assert id_text(id_bytes(ID)) == ID


def test_only_the_note_of_a_gateway_says_what_a_task_was_made_of_whenever_it_is_read() -> None:
    note = Redriven(ID, "1b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a11")
    early = fold_submission(fold_redrive(None, note).task, TASK, "prime", "demo", NONE).task
    late = fold_redrive(fold_submission(None, TASK, "prime", "demo", NONE).task, note).task
    assert early == late
    assert (late.redrive_of, late.name) == (note.redrive_of, "prime")
    assert fold_redrive(late, replace(note, redrive_of=ID)).task.redrive_of == note.redrive_of
