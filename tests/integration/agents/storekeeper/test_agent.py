"""The storekeeper as a process, on a real broker: from outcomes to terminal events and files."""

import os
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from headrace.contract.records import Outgoing, Source
from headrace.kafka.partitioner import partition_of
from headrace.kafka.reading import read_record
from infra.local.process import free_port
from tests.rigs.sqlite_files import flip_pages, truncate
from tests.rigs.storekeeper import (
    SUBMISSION,
    Rig,
    cancelled,
    completed,
    failed,
    in_chunks,
    installation,
    terminate,
    wait_for,
)
from tests.rigs.topics import PARTITIONS


@pytest.fixture(scope="module")
def shared(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One storekeeper for all tests that do not stop it."""
    with installation(broker, tmp_path_factory.mktemp("storekeeper")) as rig:
        rig.start()
        yield rig


@pytest.fixture
def rig(broker: str, tmp_path: Path) -> Iterator[Rig]:
    """An installation of the test's own, without a running role."""
    with installation(broker, tmp_path) as rig:
        yield rig


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


def test_the_first_outcome_of_a_task_is_its_end_and_later_ones_change_nothing(shared: Rig) -> None:
    wait_for(lambda: shared.ready().status_code == 200, "ready")
    passed_over = shared.metric("headrace_outcomes_passed_over_total")
    one, other = str(uuid.uuid4()), str(uuid.uuid4())
    shared.send(completed(id=one), failed(id=one, attempt=2), completed(b"later", id=one, directory="elsewhere"))
    shared.send(cancelled(id=other), completed(id=other))
    last = completed()
    shared.send(last)
    events = shared.events(one, other, last.id)

    assert sorted((e.id, e.topic) for e in events if e.id in (one, other, last.id)) == sorted(
        [(one, "lifecycle.completed"), (other, "tasks.dead"), (last.id, "lifecycle.completed")]
    )
    assert not (shared.root / "elsewhere").exists()
    wait_for(lambda: shared.metric("headrace_outcomes_passed_over_total") == passed_over + 3, "three passed over")


def test_records_that_are_not_outcomes_are_counted_and_passed_over(shared: Rig) -> None:
    ids = [str(uuid.uuid4()), str(uuid.uuid4())]
    garbage = [
        Outgoing("results", None, None),
        Outgoing("results", b"no id", b"x", (("outcome", b"completed"),)),
        Outgoing("results", ids[0].encode(), b"x", (("outcome", b"\xff\xfe"),)),
        Outgoing("results", ids[1].encode(), b"x", (("outcome", b"completed"), ("attempt", b"-1"))),
    ]
    last = completed()
    elsewhere = replace(
        completed(id=last.id).encode(), partition=(partition_of(last.id.encode(), PARTITIONS) + 1) % PARTITIONS
    )
    shared.send(*garbage, elsewhere, last)
    assert [e.id for e in shared.events(last.id) if e.id in {last.id, *ids}] == [last.id]
    wait_for(lambda: shared.metric("headrace_outcomes_undecodable_total") == 5, "five records counted")


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


@pytest.mark.parametrize("damage", [flip_pages, truncate])
def test_an_index_that_is_damaged_while_it_is_used_heals_and_says_so(rig: Rig, damage: Callable[[Path], None]) -> None:
    process = rig.start()
    first = [completed(b"%d" % n) for n in range(300)]
    rig.send(*first)
    rig.events(*(o.id for o in first))
    wait_for(lambda: rig.metric("headrace_storekeeper_lag") == 0 and rig.ready().status_code == 200, "all handled")
    [index] = rig.settings.data.glob("storekeeper-*.sqlite")
    damage(index)
    last = completed()
    rig.send(*first, last)
    events = rig.events(*(o.id for o in first), last.id)

    assert len(events) == len({e.id for e in events}) == 301, "no second end"
    wait_for(lambda: rig.ready().status_code == 200, "ready again")
    assert rig.metric("headrace_file_rebuilds_total{") == 1
    assert process.poll() is None
    assert terminate(process) == 0


def test_a_locked_index_is_waited_for_in_words_and_kept(rig: Rig) -> None:
    process = rig.start()
    first, second = completed(), completed()
    rig.send(first)
    rig.events(first.id)
    [index] = rig.settings.data.glob("storekeeper-*.sqlite")
    with closing(sqlite3.connect(index, isolation_level=None, timeout=30)) as other:
        other.execute("BEGIN IMMEDIATE")
        rig.send(second)
        wait_for(lambda: "another process has locked it" in rig.ready().text, "the reason on /readyz")
        other.execute("ROLLBACK")
    rig.events(first.id, second.id)
    wait_for(lambda: rig.ready().status_code == 200, "ready by itself")
    assert rig.metric("headrace_file_rebuilds_total{") == 0
    assert terminate(process) == 0


def test_a_storekeeper_that_waits_for_its_locked_index_at_its_start_stops_when_it_is_told_to(
    rig: Rig, capfd: pytest.CaptureFixture[str]
) -> None:
    index = rig.settings.make_data_folder() / f"storekeeper-{rig.settings.storekeeper_http.rpartition(':')[2]}.sqlite"
    with closing(sqlite3.connect(index, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        process = rig.start()
        told = ""

        def says_so() -> bool:
            nonlocal told
            told += capfd.readouterr().err
            return "another process has locked it" in told

        wait_for(says_so, "the reason in its log")
        assert terminate(process) == 0


def test_an_id_that_ended_under_another_prefix_ends_here_too(broker: str, tmp_path: Path) -> None:
    outcome = completed()
    with installation(broker, tmp_path) as before:
        process = before.start()
        before.send(outcome)
        before.events(outcome.id)
        assert terminate(process) == 0
    with installation(broker, tmp_path) as rig:
        rig.start(storekeeper_http=before.settings.storekeeper_http)  # its port names the files in HEADRACE_DATA
        rig.send(outcome)
        [event] = rig.events(outcome.id)
        assert rig.file(event) == outcome.value


def test_a_result_in_chunks_is_one_file_and_small_ones_overtake_it(shared: Rig) -> None:
    big = completed(bytes(range(256)) * 5000, suffix=".bin", content_type="application/octet-stream")
    chunks = in_chunks(big)
    # In the same partition, so that the small one really is between the chunks of the big one.
    [(_, partition, first)] = shared.send(chunks[0])
    small = completed()
    while shared.send(small)[0][1] != partition:
        small = completed()
    shared.events(small.id)
    assert shared.committed(partition) <= first
    shared.send(*chunks[1:])
    event = next(e for e in shared.events(big.id) if e.id == big.id)
    assert shared.file(event) == big.value
    wait_for(lambda: shared.committed(partition) > first + len(chunks), "the commit passes a set that is whole")


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


def test_a_result_in_chunks_survives_the_loss_of_its_partial_file(rig: Rig) -> None:
    rig.start()
    big = completed(b"0123456789" * 200_000, suffix=".txt")
    chunks = in_chunks(big)
    rig.send(*chunks[:2])
    wait_for(
        lambda: rig.ready().status_code == 200 and rig.metric("headrace_chunked_results_open") == 1, "a set is open"
    )
    shutil.rmtree(rig.root / ".headrace")
    rig.send(*chunks[2:])
    [event] = rig.events(big.id)
    assert rig.file(event) == big.value


def test_a_half_sent_result_is_dropped_when_another_attempt_ends_the_task(shared: Rig) -> None:
    big = completed(b"x" * 2_000_000)
    [(_, partition, first), *_] = shared.send(*in_chunks(big)[:3])
    other = completed(b"the next attempt's", id=big.id, attempt=2, boot="boot-2")
    shared.send(other)
    [event] = [e for e in shared.events(big.id) if e.id == big.id]
    assert shared.file(event) == other.value
    wait_for(lambda: shared.committed(partition) > first + 3, "nothing holds the commit back")
    assert list((shared.root / ".headrace").glob("*/*-*")) == []


def test_a_directory_of_the_results_name_makes_the_task_fail_in_words_with_its_submission(shared: Rig) -> None:
    [source] = shared.sender.send_all([Outgoing("tasks.normal", None, SUBMISSION)], 10)
    outcome = completed(source=Source(*source))
    (shared.root / "demo" / f"{outcome.id}.json").mkdir(parents=True)
    last = completed()
    shared.send(outcome, last)
    events = {e.id: e for e in shared.events(outcome.id, last.id)}
    assert (events[outcome.id].topic, events[outcome.id].reason) == ("tasks.dead", "failed")
    assert "in the way" in events[outcome.id].error
    assert events[outcome.id].ledger[-1].detail == events[outcome.id].error
    letter = read_record(shared.kafka, Source("tasks.dead", events[outcome.id].partition, events[outcome.id].offset))
    assert letter is not None
    assert letter.value == SUBMISSION


def test_two_storekeepers_share_the_work_and_publish_nothing_twice(rig: Rig) -> None:
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


def test_symlinks_planted_before_and_swapped_in_meanwhile_are_not_followed(shared: Rig, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    first = completed(directory="a/b")
    shared.send(first)
    shared.events(first.id)
    # A directory swapped for a symlink, a symlink as the result itself, a file where a directory should be.
    (shared.root / "a" / "b").rename(shared.root / "a" / "was-b")
    (shared.root / "a" / "b").symlink_to(outside)
    (shared.root / "evil").symlink_to(outside)
    (shared.root / "demo").mkdir(exist_ok=True)
    (shared.root / "file").write_text("in the way")
    target = outside / "target"
    target.write_text("untouched")
    swapped, evil, blocked, planted = (completed(directory=d) for d in ("a/b", "evil", "file/c", "demo"))
    (shared.root / "demo" / f"{planted.id}.json").symlink_to(target)
    forged = [completed(directory=d) for d in ("../outside", "/etc", "a/../../b", ".hidden", "a\0b", "x/" * 9)]
    odd = completed(suffix="/../../x")
    all_of_them = [swapped, evil, blocked, planted, odd, *forged]
    shared.send(*all_of_them)
    events = {e.id: e for e in shared.events(*(o.id for o in all_of_them))}

    assert events[planted.id].topic == "lifecycle.completed"
    assert shared.file(events[planted.id]) == planted.value
    assert not (shared.root / events[planted.id].file).is_symlink()
    for outcome in (swapped, evil, blocked, odd, *forged):
        assert (events[outcome.id].topic, events[outcome.id].reason) == ("tasks.dead", "failed"), outcome.directory
        assert events[outcome.id].error
    assert target.read_text() == "untouched"
    assert list(outside.iterdir()) == [target]


def test_memory_does_not_grow_with_the_size_of_a_result(rig: Rig) -> None:
    process = rig.start()
    warm = completed(b"w" * 3_000_000)
    rig.send(*in_chunks(warm))
    rig.events(warm.id)
    before = _rss(process.pid)
    big = completed(os.urandom(1 << 20) * 64, suffix=".bin")
    chunks = in_chunks(big)
    for at in range(0, len(chunks), 16):
        rig.send(*chunks[at : at + 16])
    events = rig.events(big.id)
    [event] = [e for e in events if e.id == big.id]
    assert rig.file(event) == big.value
    assert _rss(process.pid) - before < 48 << 20, "64 MiB passed"


def _rss(pid: int) -> int:
    rss: int = psutil.Process(pid).memory_info().rss
    return rss
