"""The ready queue decides what starts next (I5), without Kafka."""

import time
import uuid

import pytest

from agents.intake.admission import decode_task
from agents.intake.ready_queue import AHEAD_MS, PAUSE_RECORDS, RESUME_RECORDS, Pulled, ReadyQueue
from headrace.contract.records import Record
from tests.rigs.clock import Clock


def pulled(
    offset: int, at_ms: int, topic: str = "tasks.normal", partition: int = 0, attempt: int = 1, size: int = 2
) -> Pulled:
    headers = (("attempt", str(attempt).encode()),) if topic == "tasks.high" else ()
    r = Record(
        topic, partition, offset, timestamp_ms=at_ms, key=str(uuid.uuid4()).encode(), value=b"x" * size, headers=headers
    )
    return Pulled(r, *decode_task(r))


def leave_all(queue: ReadyQueue) -> list[int]:
    """Removes all records; returns their times in the order in which they left."""
    order = []
    while (head := queue.next_record()) is not None:
        queue.remove(head)
        order.append(head.record.timestamp_ms)
    return order


def queue_of(*records: Pulled, ends: int = 0, clock: Clock | None = None) -> ReadyQueue:
    queue = ReadyQueue(clock or Clock(100.0))
    queue.assign({r.place: (0, ends) for r in records})
    for r in records:
        queue.add_record(r, ends)
    return queue


def test_a_broker_that_is_a_day_ahead_keeps_no_task_waiting_behind_later_ones() -> None:
    now_ms = int(time.time() * 1000)
    ahead, later = pulled(0, now_ms + 86_400_000), pulled(0, now_ms + AHEAD_MS // 2, partition=1)
    assert leave_all(queue_of(later, ahead)) == [ahead.record.timestamp_ms, later.record.timestamp_ms]


def test_what_only_markers_hold_is_committed_once_nothing_before_it_waits() -> None:
    queue = ReadyQueue()
    place = ("tasks.normal", 0)
    queue.assign({place: (5, 5)})
    assert queue.uncommitted_ends() == {}
    queue.mark_end(place, 8)
    assert queue.uncommitted_ends() == {place: 8}
    queue.mark_committed({place: 8})
    assert queue.uncommitted_ends() == {}

    head = pulled(8, 1)
    queue.add_record(head, 9)
    queue.mark_end(place, 11)
    assert queue.uncommitted_ends() == {}, "the record before the markers is not settled"
    queue.remove(head)
    assert queue.uncommitted_ends() == {place: 11}
    queue.rewind(place, 8)
    assert queue.uncommitted_ends() == {}


def test_normal_tasks_leave_by_time_across_partitions() -> None:
    records = [
        pulled(0, 5),
        pulled(1, 7),
        pulled(0, 4, partition=1),
        pulled(1, 6, partition=1),
        pulled(0, 1, partition=2),
    ]
    assert leave_all(queue_of(*records)) == [1, 4, 5, 6, 7]


def test_high_goes_before_normal_and_a_replay_before_new_high() -> None:
    records = [
        pulled(0, 1),
        pulled(0, 2, "tasks.high", partition=0),
        pulled(0, 9, "tasks.high", partition=1, attempt=2),
    ]
    assert leave_all(queue_of(*records)) == [9, 2, 1]


def test_a_replay_pulls_what_is_before_it_in_its_partition() -> None:
    records = [
        pulled(0, 1, "tasks.high", partition=0),
        pulled(0, 5, "tasks.high", partition=1),
        pulled(1, 6, "tasks.high", partition=1, attempt=2),
    ]
    assert leave_all(queue_of(*records)) == [5, 6, 1]


def test_a_normal_task_waits_a_moment_for_records_that_may_be_older() -> None:
    clock, late = Clock(100.0), pulled(0, 1, partition=1)
    queue = ReadyQueue(clock)
    queue.assign({("tasks.normal", 0): (0, 1), ("tasks.normal", 1): (0, 1)})
    queue.add_record(pulled(0, 2), 1)
    assert queue.next_record() is None
    queue.add_record(late, 1)
    assert leave_all(queue) == [1, 2]


def test_a_partition_that_does_not_answer_holds_up_nobody_for_long() -> None:
    clock = Clock(100.0)
    queue = ReadyQueue(clock)
    queue.assign({("tasks.normal", 0): (0, 1), ("tasks.normal", 1): (0, 1)})
    queue.add_record(pulled(0, 2), 1)
    assert queue.next_record() is None
    clock.now += 1
    assert queue.next_record() is not None


def test_a_partition_whose_records_do_not_arrive_is_reported_although_others_move() -> None:
    clock = Clock(100.0)
    queue = ReadyQueue(clock)
    queue.assign({("tasks.normal", 0): (0, 5), ("tasks.normal", 1): (0, 1)})
    queue.add_record(pulled(0, 1, partition=1), 1)
    assert leave_all(queue) == []  # it waits a moment
    clock.now += 7
    assert queue.overdue_partition(8) is None
    clock.now += 2
    queue.add_record(pulled(1, 2, partition=1), 2)
    assert leave_all(queue) == [1, 2]
    assert queue.overdue_partition(8) == ("tasks.normal", 0)
    queue.add_record(pulled(0, 3), 5)
    assert queue.overdue_partition(8) is None


def test_an_empty_partition_is_not_waited_for() -> None:
    queue = ReadyQueue(Clock(100.0))
    queue.assign({("tasks.normal", 0): (0, 1), ("tasks.normal", 1): (0, 5)})
    queue.mark_end(("tasks.normal", 1), 5)
    queue.add_record(pulled(0, 2), 1)
    assert queue.next_record() is not None


def test_a_held_partition_lets_the_others_pass() -> None:
    clock, first = Clock(100.0), pulled(0, 1)
    queue = queue_of(first, pulled(0, 2, partition=1), clock=clock)
    queue.hold_partition(first.place, 1.0)
    assert leave_all(queue) == [2]
    clock.now += 2
    assert leave_all(queue) == [1]


def test_full_partitions_are_paused_until_they_have_room() -> None:
    queue = queue_of(*(pulled(o, o) for o in range(PAUSE_RECORDS)))
    assert queue.to_pause() == [("tasks.normal", 0)]
    assert queue.to_pause() == []
    assert queue.to_resume() == []
    for _ in range(PAUSE_RECORDS - RESUME_RECORDS):
        head = queue.next_record()
        assert head is not None
        queue.remove(head)
    assert queue.to_resume() == [("tasks.normal", 0)]


def test_a_few_large_records_fill_a_partition() -> None:
    queue = queue_of(pulled(0, 0, size=900_000))
    assert queue.to_pause() == [("tasks.normal", 0)]


def test_records_that_come_twice_or_after_a_rebalance_are_ignored() -> None:
    first = pulled(0, 1)
    queue = queue_of(first)
    queue.add_record(first, 0)
    assert len(queue) == 1
    queue.clear()
    queue.add_record(pulled(1, 2), 0)
    assert len(queue) == 0


def test_a_record_cannot_overtake_in_its_partition() -> None:
    first, second = pulled(0, 1), pulled(1, 2)
    queue = queue_of(first, second)
    with pytest.raises(ValueError, match="order"):
        queue.remove(second)
