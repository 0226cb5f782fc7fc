"""The storekeeper as a process, on a real broker: what it makes of outcomes."""

import uuid
from collections.abc import Iterator

import pytest

from headrace.records import Outgoing
from headrace.settings import Settings
from tests.integration.storekeeper_rig import (
    SUBMISSION,
    Rig,
    cancelled,
    completed,
    failed,
    in_chunks,
    terminate,
    wait_for,
)


@pytest.fixture
def rig(kafka_settings: Settings, topics: str) -> Iterator[Rig]:
    rig = Rig(kafka_settings)
    yield rig
    rig.stop()


def test_each_kind_of_outcome_gets_its_terminal_event_and_only_results_get_files(rig: Rig) -> None:
    done, broken, stopped = completed(), failed(), cancelled()
    rig.send(done, broken, stopped)
    process = rig.start()
    events = {e.id: e for e in rig.events(done.id, broken.id, stopped.id)}

    assert rig.file(events[done.id]) == done.value
    assert events[done.id].file == f"demo/{done.id}.json"
    assert (events[done.id].topic, events[done.id].duration_ms) == ("lifecycle.completed", 12)
    assert (events[broken.id].topic, events[broken.id].reason, events[broken.id].error) == (
        "tasks.dead",
        "failed",
        "it broke",
    )
    assert (events[stopped.id].topic, events[stopped.id].reason) == ("tasks.dead", "cancelled")
    assert [p.name for p in (rig.root / "demo").iterdir()] == [f"{done.id}.json"]
    assert terminate(process) == 0
    assert list((rig.root / ".headrace").iterdir()) == []


def test_the_first_outcome_of_a_task_is_its_end_and_later_ones_change_nothing(rig: Rig) -> None:
    rig.start()
    one, other = str(uuid.uuid4()), str(uuid.uuid4())
    rig.send(completed(id=one), failed(id=one, attempt=2), completed(b"later", id=one, directory="elsewhere"))
    rig.send(cancelled(id=other), completed(id=other))
    last = completed()
    rig.send(last)
    events = rig.events(one, other, last.id)

    assert sorted((e.id, e.topic) for e in events) == sorted(
        [(one, "lifecycle.completed"), (other, "tasks.dead"), (last.id, "lifecycle.completed")]
    )
    assert not (rig.root / "elsewhere").exists()
    wait_for(lambda: rig.metric("headrace_outcomes_passed_over_total") == 3, "three outcomes passed over")


def test_records_that_are_no_outcomes_are_counted_and_passed_over(rig: Rig) -> None:
    rig.start()
    garbage = [
        Outgoing("results", None, None),
        Outgoing("results", b"no id", b"x", (("outcome", b"completed"),)),
        Outgoing("results", str(uuid.uuid4()).encode(), b"x", (("outcome", b"\xff\xfe"),)),
        Outgoing("results", str(uuid.uuid4()).encode(), b"x", (("outcome", b"completed"), ("attempt", b"-1"))),
    ]
    last = completed()
    rig.send(*garbage, last)
    assert [e.id for e in rig.events(last.id)] == [last.id]
    wait_for(lambda: rig.metric("headrace_outcomes_undecodable_total") == 4, "four records counted")


def test_a_lost_index_is_rebuilt_from_the_log_before_anything_is_judged(rig: Rig) -> None:
    first = [completed() for _ in range(20)] + [failed() for _ in range(5)]
    process = rig.start()
    rig.send(*first)
    assert len(rig.events(*(o.id for o in first))) == 25
    assert terminate(process) == 0

    for leftover in rig.settings.data.glob("storekeeper-*"):
        if leftover.is_file():
            leftover.unlink()
    again = completed()
    rig.send(*(completed(b"a second result", id=o.id) for o in first), again)
    rig.start()
    assert len(rig.events(again.id)) == 26


def test_a_result_in_chunks_is_one_file_and_small_ones_overtake_it(rig: Rig) -> None:
    rig.start()
    big = completed(bytes(range(256)) * 5000, suffix=".bin", content_type="application/octet-stream")
    chunks = in_chunks(big)
    # An id of the same partition, so that the small one really lies between the chunks of the big one.
    [(_, partition, first)] = rig.send(chunks[0])
    small = completed()
    while rig.send(small)[0][1] != partition:
        small = completed()
    rig.events(small.id)
    assert rig.committed(partition) <= first
    rig.send(*chunks[1:])
    event = next(e for e in rig.events(big.id) if e.id == big.id)
    assert rig.file(event) == big.value
    wait_for(lambda: rig.committed(partition) > first + len(chunks), "the commit passes a set that is whole")


def test_a_result_in_chunks_survives_a_kill_between_them(rig: Rig) -> None:
    process = rig.start()
    big = completed(b"0123456789" * 200_000, suffix=".txt")
    chunks = in_chunks(big)
    rig.send(*chunks[:2])
    wait_for(
        lambda: rig.ready().status_code == 200 and rig.metric("headrace_chunked_results_open") == 1, "a set is open"
    )
    process.kill()
    process.wait()
    assert len(list((rig.root / ".headrace").glob("*/*-*"))) == 1

    rig.send(*chunks[2:])
    process = rig.start()
    [event] = rig.events(big.id)
    assert rig.file(event) == big.value
    assert terminate(process) == 0
    assert list((rig.root / ".headrace").iterdir()) == []  # the dead process's part too


def test_a_half_sent_result_is_dropped_when_another_attempt_ends_the_task(rig: Rig) -> None:
    rig.start()
    big = completed(b"x" * 2_000_000)
    [(_, partition, first), *_] = rig.send(*in_chunks(big)[:3])
    other = completed(b"the next attempt's", id=big.id, attempt=2, boot="boot-2")
    rig.send(other)
    [event] = rig.events(big.id)
    assert rig.file(event) == other.value
    wait_for(lambda: rig.committed(partition) > first + 3, "nothing holds the commit back")
    assert list((rig.root / ".headrace").glob("*/*-*")) == []


def test_a_directory_of_the_results_name_makes_the_task_fail_in_words_with_its_submission(rig: Rig) -> None:
    [source] = rig.sender.send_all([Outgoing("tasks.normal", None, SUBMISSION)], 10)
    from headrace.records import Source

    outcome = completed(source=Source(*source))
    (rig.root / "demo" / f"{outcome.id}.json").mkdir(parents=True)
    rig.start()
    last = completed()
    rig.send(outcome, last)
    events = {e.id: e for e in rig.events(outcome.id, last.id)}
    assert (events[outcome.id].topic, events[outcome.id].reason) == ("tasks.dead", "failed")
    assert "in the way" in events[outcome.id].error
    assert events[outcome.id].ledger[-1].detail == events[outcome.id].error
    from headrace.kafka import read_record

    letter = read_record(rig.kafka, Source("tasks.dead", events[outcome.id].partition, events[outcome.id].offset))
    assert letter is not None
    assert letter.value == SUBMISSION


def test_two_storekeepers_share_the_work_and_publish_nothing_twice(rig: Rig) -> None:
    from infra.local.process import free_port

    rig.start()
    early = [completed() for _ in range(50)]
    rig.send(*early)
    rig.events(*(o.id for o in early))
    other = rig.start(
        storekeeper_http=f"127.0.0.1:{free_port()}", data=rig.settings.data / "other", results=str(rig.root)
    )
    late = [completed() for _ in range(200)]
    for outcome in late:
        rig.send(outcome)
    other.kill()
    more = [completed() for _ in range(50)]
    rig.send(*more, *early)
    ids = {o.id for o in (*early, *late, *more)}
    rig.events(*ids)
    wait_for(lambda: rig.ready().status_code == 200 and rig.metric("headrace_storekeeper_lag") == 0, "no lag")
    events = rig.all_events()
    assert len(events) == len({e.id for e in events}) == 300
