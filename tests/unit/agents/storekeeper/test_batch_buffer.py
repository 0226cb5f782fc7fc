"""The storekeeper's inbox: nothing of a generation that is over is ever taken, and a full one says so."""

import threading

from agents.storekeeper.batch_buffer import MOST_BYTES, MOST_RECORDS, BatchBuffer
from headrace.contract.records import Record


def records(count: int, partition: int = 0, size: int = 1) -> list[Record]:
    return [
        Record("results", partition, n, timestamp_ms=0, key=None, value=b"x" * size, headers=()) for n in range(count)
    ]


def begun(generation: int = 1) -> BatchBuffer:
    inbox = BatchBuffer()
    inbox.begin(generation, [0, 1])
    return inbox


def test_all_that_is_there_is_taken_at_once_and_partitions_are_named_once() -> None:
    inbox = begun()
    inbox.put(records(2))
    inbox.put(records(1, partition=1))
    batch = inbox.take()
    assert batch is not None
    assert (batch.generation, batch.given, len(batch.records)) == (1, {0, 1}, 3)
    inbox.done()
    assert inbox.take() is None
    inbox.put(records(1))
    batch = inbox.take()
    assert batch is not None
    assert (batch.given, len(batch.records)) == (frozenset(), 1)


def test_new_partitions_are_told_without_waiting_for_a_record() -> None:
    batch = begun().take()
    assert batch is not None
    assert (batch.given, batch.records) == ({0, 1}, [])


def test_what_an_ended_generation_has_left_is_dropped() -> None:
    inbox = begun()
    inbox.put(records(3))
    inbox.end()
    assert inbox.take() is None
    inbox.begin(2, [1])
    inbox.put(records(1, partition=1))
    batch = inbox.take()
    assert batch is not None
    assert (batch.generation, batch.given, len(batch.records)) == (2, {1}, 1)


def test_it_is_full_by_number_or_bytes_until_it_is_taken() -> None:
    for filling in (records(MOST_RECORDS), records(2, size=MOST_BYTES // 2)):
        inbox = begun()
        assert inbox.wait_room(0)
        inbox.put(filling)
        assert not inbox.wait_room(0)
        inbox.take()
        assert inbox.wait_room(0)


def test_whoever_gives_partitions_up_waits_for_the_batch_at_work() -> None:
    inbox = begun()
    assert inbox.wait_done(0)
    inbox.put(records(1))
    inbox.take()
    assert not inbox.wait_done(0.01)
    waited = threading.Thread(target=lambda: inbox.wait_done(30))
    waited.start()
    inbox.done()
    waited.join(10)
    assert not waited.is_alive()


def test_closed_it_gives_nothing_more() -> None:
    inbox = begun()
    inbox.put(records(1))
    inbox.close()
    assert inbox.take() is None
