"""What leaves the view after its days, in which steps, and what is kept of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.view.event_topics import EVENT_TOPICS
from gateway.view.projection import TaskView, id_text, place_of
from gateway.view.pruner import Pruner
from gateway.view.pruning import START, STEP
from gateway.view.store import StatusStore, StoredProgress, TaskFilter
from headrace.contract.states import Status

DAY_MS = 86_400_000
NOW_MS = 100 * DAY_MS
RECEIVED, STARTED, PROGRESS, COMPLETED, DEAD = range(len(EVENT_TOPICS))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StatusStore]:
    found = StatusStore(tmp_path / "view.sqlite")
    yield found
    found.close()


def add(
    store: StatusStore, number: int, ended_ms: int, status: Status = Status.COMPLETED, redrive_of: str = ""
) -> bytes:
    """A task whose records have the offset `number` on partition 0 of each topic; 0 = it has not ended."""
    task_id = number.to_bytes(16, "big")
    place = place_of(0, number)
    task = TaskView(
        task_id,
        name="prime",
        status=status,
        submitted_ms=min(ended_ms or 1, number + 1),
        ended_ms=ended_ms,
        received_place=place,
        started_place=place,
        ended_place=place if ended_ms else -1,
        redrive_of=redrive_of,
    )
    last = COMPLETED if status is Status.COMPLETED else DEAD
    topics = (RECEIVED, STARTED, PROGRESS, *((last,) if ended_ms else ()))
    report = StoredProgress(task_id, number, 0, 1, 0.5, "", NOW_MS)
    store.apply([task], [(t, 0, number, task_id) for t in topics], [report], {})
    return task_id


def prune(store: StatusStore, before_ms: int = NOW_MS - 7 * DAY_MS) -> int:
    """One pass; returns the number of its steps."""
    after, steps = START, 0
    while True:
        steps += 1
        found = store.prune_tasks(before_ms, after)
        if found is None:
            return steps
        after = found


def test_what_ended_long_ago_leaves_with_its_events_and_only_that(store: StatusStore) -> None:
    old, dead = add(store, 1, 5), add(store, 2, 6, Status.FAILED)
    kept = [add(store, 3, 0, Status.RUNNING), add(store, 4, NOW_MS), add(store, 5, 0, Status.QUEUED)]
    prune(store)
    assert {t.id for t in store.list_tasks(TaskFilter(), None, 10)} == set(kept)
    assert {e.id for e in store.events_after(0)} == set(kept)
    assert store.progress_after(old, -1) == []
    assert store.get_task(old) is None
    assert [store.is_forgotten(i) for i in (old, dead, *kept)] == [True, True, False, False, False]
    assert store.forgotten([old, kept[0]]) == {old}
    assert store.pruned() == {(RECEIVED, 0): 3, (STARTED, 0): 3, (PROGRESS, 0): 3, (COMPLETED, 0): 2, (DEAD, 0): 3}


def test_a_redrive_stays_as_long_as_the_task_that_it_redrives(store: StatusStore) -> None:
    old = add(store, 1, NOW_MS, Status.FAILED)
    again = add(store, 2, 5, redrive_of=id_text(old))
    orphan = add(store, 3, 5, redrive_of="no id")
    prune(store)
    assert store.redrive_counts([old]) == {old: 1}
    assert not store.is_forgotten(again)
    assert store.is_forgotten(orphan)


def test_a_step_looks_at_a_bounded_number_of_tasks_and_live_ones_do_not_hold_it_up(store: StatusStore) -> None:
    tasks = [
        TaskView(
            n.to_bytes(16, "big"), status=Status.QUEUED if n < 2 * STEP else Status.FAILED, submitted_ms=n // 100 + 1
        )
        for n in range(3 * STEP)
    ]
    for task in tasks[2 * STEP :]:
        task.ended_ms = 5
    store.apply(tasks, [], [], {})
    assert prune(store) == 4
    assert len(store.list_tasks(TaskFilter(), None, 4 * STEP)) == 2 * STEP


def test_nothing_is_forgotten_without_the_setting_and_steps_are_spread(store: StatusStore) -> None:
    add(store, 1, 5)
    for_ever = Pruner(store, 0, clock=lambda: NOW_MS / 1000)
    for_ever.turn()
    assert len(store.list_tasks(TaskFilter(), None, 10)) == 1
    now_s = NOW_MS / 1000
    week = Pruner(store, 7, clock=lambda: now_s)
    week.turn()
    assert store.list_tasks(TaskFilter(), None, 10) == []
    add(store, 2, 5)
    week.turn()
    assert len(store.list_tasks(TaskFilter(), None, 10)) == 1, "the next pass is a minute later"
    now_s += 61
    week.turn()
    assert store.list_tasks(TaskFilter(), None, 10) == []


def test_old_progress_leaves_with_its_events(store: StatusStore) -> None:
    task_id = add(store, 1, 0, Status.RUNNING)
    assert not store.prune_progress(NOW_MS + 1)
    assert store.progress_after(task_id, -1) == []
    assert [e.topic for e in store.events_after(0)] == [RECEIVED, STARTED]
    assert store.pruned() == {(PROGRESS, 0): 2}
