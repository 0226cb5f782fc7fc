"""Which kinds are tiny, and how what waits is shared out among slots."""

import pytest

from agents.intake.admission import Admitted
from agents.intake.micro_batching import CHUNK_BYTES, CHUNK_MEMBERS, CHUNK_S, TINY_S, MicroBatcher, RunTimes
from agents.intake.ready_queue import Pulled
from headrace.contract.cluster import KindInfo
from headrace.contract.records import Record, Source
from headrace.contract.submission import Submission
from headrace.contract.task import Task


def admitted(kind: str = "tiny") -> Admitted:
    return Admitted(Submission(kind, {}, "d"), KindInfo(kind, {}, timeout_s=60.0, max_attempts=3))


def pulled(offset: int, attempt: int = 1, size: int = 10, foreign: int = 0) -> Pulled:
    source = Source("tasks.normal", 0, offset)
    record = Record("tasks.normal", 0, offset, timestamp_ms=0, key=None, value=b"x" * size, headers=())
    return Pulled(
        record,
        Task(
            f"id-{offset}",
            b"x" * size,
            attempt=attempt,
            source=source,
            submitted_ms=0,
            ledger=(),
            foreign=(("h", b"x" * foreign),) * bool(foreign),
        ),
    )


def known(seconds: float = 0.0001, runs: int = 20) -> RunTimes:
    times = RunTimes()
    for _ in range(runs):
        times.ran("tiny", seconds)
    return times


def sizes(chunks: MicroBatcher) -> list[int]:
    return [len(chunk.members) for chunk in chunks.made]


def take_all(chunks: MicroBatcher, count: int, **of: int) -> int:
    """How many found their place."""
    return next((n for n in range(count) if not chunks.take(pulled(n, **of), admitted())), count)


def test_a_kind_is_tiny_after_some_short_runs_and_no_longer_after_long_ones() -> None:
    times = known(runs=4)
    assert times.tiny_s("tiny") is None
    times.ran("tiny", 0.0001)
    assert times.tiny_s("tiny") == pytest.approx(0.0001)
    assert times.tiny_s("another") is None
    times.ran("tiny", 10 * TINY_S)
    times.ran("tiny", 10 * TINY_S)
    assert times.tiny_s("tiny") is None


def test_tiny_tasks_share_slots_evenly() -> None:
    chunks = MicroBatcher(known(), free=4, waiting=10)
    assert take_all(chunks, 10) == 10
    assert sizes(chunks) == [3, 3, 3, 1]


def test_each_slot_has_its_own_as_long_as_slots_suffice() -> None:
    chunks = MicroBatcher(known(), free=4, waiting=3)
    assert take_all(chunks, 3) == 3
    assert sizes(chunks) == [1, 1, 1]


def test_tasks_of_unknown_length_go_alone() -> None:
    chunks = MicroBatcher(RunTimes(), free=2, waiting=10)
    assert take_all(chunks, 10) == 2
    assert sizes(chunks) == [1, 1]


def test_replays_go_alone() -> None:
    chunks = MicroBatcher(known(), free=3, waiting=10)
    assert take_all(chunks, 10, attempt=2) == 3


def test_a_chunk_is_bounded_in_members_bytes_and_expected_time() -> None:
    assert take_all(MicroBatcher(known(), 1, 10_000), 10_000) == CHUNK_MEMBERS
    assert take_all(MicroBatcher(known(), 1, 10_000), 10_000, size=CHUNK_BYTES // 8 - 256) == 8
    assert take_all(MicroBatcher(known(), 1, 10_000), 10_000, foreign=CHUNK_BYTES // 16) < 8  # in hexadecimal
    assert take_all(MicroBatcher(known(seconds=0.002), 1, 10_000), 10_000) == pytest.approx(CHUNK_S / 0.002, abs=1)


def test_a_heavy_task_behind_tiny_ones_keeps_its_place() -> None:
    chunks = MicroBatcher(known(), free=1, waiting=10)
    assert chunks.take(pulled(0), admitted())
    assert not chunks.take(pulled(1), admitted("heavy"))  # the intake stops here: nothing overtakes it
