"""Rule D's window: what it remembers, and how much memory it may take."""

import uuid

from agents.intake.deduplication import DedupWindow, FingerprintSet, fingerprint
from tests.rigs.clock import Clock


def test_the_same_id_at_another_attempt_is_no_repeat() -> None:
    window, task_id = DedupWindow(), str(uuid.uuid4())
    window.add_task(task_id, 1, 0)
    assert window.has_seen(task_id, 1)
    assert not window.has_seen(task_id, 2)
    assert window.end == 1


def test_the_window_holds_its_number_of_records_and_not_more_than_twice_that() -> None:
    window, ids = DedupWindow(records=100), [str(uuid.uuid4()) for _ in range(1000)]
    for offset, task_id in enumerate(ids):
        window.add_task(task_id, 1, offset)
    assert all(window.has_seen(i, 1) for i in ids[-100:])
    assert not any(window.has_seen(i, 1) for i in ids[:800])


def test_the_window_ends_with_time() -> None:
    clock, task_id = Clock(0.0), str(uuid.uuid4())
    window = DedupWindow(window_s=10, clock=clock)
    window.add_task(task_id, 1, 0)
    for offset, clock.now in ((1, 11), (2, 22), (3, 33)):
        window.add_task(str(uuid.uuid4()), 1, offset)
    assert not window.has_seen(task_id, 1)


def test_the_set_finds_what_was_added_and_nothing_else() -> None:
    numbers = FingerprintSet()
    added = {fingerprint(str(uuid.uuid4()), 1) for _ in range(5000)}
    for number in added:
        numbers.add(number)
        numbers.add(number)
    assert len(numbers) == len(added)
    assert all(n in numbers for n in added)
    assert not any(fingerprint(str(uuid.uuid4()), 1) in numbers for _ in range(5000))
