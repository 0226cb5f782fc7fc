"""Records that Kafka has not taken: sent again with growing pauses, in the order of their keys."""

from headrace.contract.records import Outgoing
from headrace.kafka.held_records import HeldRecords, Sending
from tests.rigs.clock import Clock


def sending(key: bytes, value: bytes = b"", wanted: bool = True) -> Sending:
    return Sending(Outgoing("results", key, value), float("inf"), lambda: wanted)


def test_later_records_of_a_key_wait_behind_the_first_and_other_keys_do_not() -> None:
    clock = Clock(100.0)
    held = HeldRecords(clock)
    first, second, other = sending(b"a"), sending(b"a"), sending(b"b")
    for one in (first, second, other):
        held.hold(one)
    assert held.holds_key_of(first.record)
    assert not held.holds_key_of(sending(b"c").record)
    assert held.take_due() == []
    clock.now += 1
    assert held.take_due() == [first, other]
    assert held.take_due() == [], "both are on their way"
    held.release(first)
    held.hold(other)
    assert held.take_due() == [second]
    held.release(second)
    clock.now += 10
    assert held.take_due() == [other]
    held.release(other)
    assert len(held) == 0


def test_pauses_grow_up_to_five_seconds() -> None:
    clock = Clock(100.0)
    held, one = HeldRecords(clock), sending(b"a")
    pauses = []
    for _ in range(6):
        held.hold(one)
        began = clock.now
        while not held.take_due():
            clock.now += 0.25
        pauses.append(clock.now - began)
    assert pauses == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_record_that_nobody_wants_any_more_is_dropped_and_its_future_cancelled() -> None:
    clock = Clock(100.0)
    held = HeldRecords(clock)
    unwanted, cancelled, behind = sending(b"a", wanted=False), sending(b"a"), sending(b"a")
    for one in (unwanted, cancelled, behind):
        held.hold(one)
    cancelled.done.cancel()
    clock.now += 1
    assert held.take_due() == [behind]
    assert unwanted.done.cancelled()


def test_a_cancelled_futures_callback_may_deliver_another_record_of_the_key() -> None:
    clock = Clock(100.0)
    held = HeldRecords(clock)
    unwanted, next_one = sending(b"a", wanted=False), sending(b"a")
    unwanted.done.add_done_callback(lambda _: held.hold(next_one))
    held.hold(unwanted)
    clock.now += 1
    assert held.take_due() == [next_one]
