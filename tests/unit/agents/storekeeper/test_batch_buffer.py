"""The storekeeper's batch buffer: records of a generation that is over are never taken, and a full buffer says so."""

import threading

from agents.storekeeper.batch_buffer import MOST_BYTES, MOST_RECORDS, BatchBuffer
from headrace.contract.records import Record


def records(count: int, partition: int = 0, size: int = 1) -> list[Record]:
    return [
        Record("results", partition, n, timestamp_ms=0, key=None, value=b"x" * size, headers=()) for n in range(count)
    ]


def buffer_of_generation(generation: int = 1) -> BatchBuffer:
    buffer = BatchBuffer()
    buffer.begin_generation(generation)
    return buffer


def test_everything_is_taken_at_once() -> None:
    buffer = buffer_of_generation()
    buffer.put_records(records(2))
    buffer.put_records(records(1, partition=1))
    batch = buffer.take_batch()
    assert batch is not None
    assert (batch.generation, len(batch.records)) == (1, 3)
    buffer.finish_batch()
    assert buffer.take_batch() is None
    buffer.put_records(records(1))
    batch = buffer.take_batch()
    assert batch is not None
    assert len(batch.records) == 1


def test_a_generation_begins_with_a_batch_without_waiting_for_a_record() -> None:
    buffer = buffer_of_generation()
    batch = buffer.take_batch()
    assert batch is not None
    assert (batch.generation, batch.records) == (1, [])
    buffer.finish_batch()
    assert buffer.take_batch() is None


def test_records_of_an_ended_generation_are_dropped() -> None:
    buffer = buffer_of_generation()
    buffer.put_records(records(3))
    buffer.end_generation()
    assert buffer.take_batch() is None
    buffer.begin_generation(2)
    buffer.put_records(records(1, partition=1))
    batch = buffer.take_batch()
    assert batch is not None
    assert (batch.generation, len(batch.records)) == (2, 1)


def test_it_is_full_by_number_or_bytes_until_a_batch_is_taken() -> None:
    for filling in (records(MOST_RECORDS), records(2, size=MOST_BYTES // 2)):
        buffer = buffer_of_generation()
        assert buffer.wait_for_room(0)
        buffer.put_records(filling)
        assert not buffer.wait_for_room(0)
        buffer.take_batch()
        assert buffer.wait_for_room(0)


def test_a_revoke_waits_for_the_current_batch() -> None:
    buffer = buffer_of_generation()
    assert buffer.wait_idle(0)
    buffer.put_records(records(1))
    buffer.take_batch()
    assert not buffer.wait_idle(0.01)
    waited = threading.Thread(target=lambda: buffer.wait_idle(30))
    waited.start()
    buffer.finish_batch()
    waited.join(10)
    assert not waited.is_alive()


def test_no_batch_is_taken_after_close() -> None:
    buffer = buffer_of_generation()
    buffer.put_records(records(1))
    buffer.close()
    assert buffer.take_batch() is None
