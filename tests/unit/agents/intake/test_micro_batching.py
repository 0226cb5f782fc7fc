"""Which kinds are tiny, and how waiting tasks are shared out among slots."""

import pytest

from agents.intake.admission import Admitted
from agents.intake.micro_batching import (
    MAX_BATCH_BYTES,
    MAX_BATCH_S,
    MAX_BATCH_TASKS,
    TINY_S,
    MicroBatcher,
    RunTimes,
)
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
        times.add_run("tiny", seconds)
    return times


def sizes(batcher: MicroBatcher) -> list[int]:
    return [len(batch.members) for batch in batcher.batches]


def place_all(batcher: MicroBatcher, count: int, **of: int) -> int:
    """How many tasks found room."""
    return next((n for n in range(count) if not batcher.place_task(pulled(n, **of), admitted())), count)


def test_a_kind_is_tiny_after_some_short_runs_and_no_longer_after_long_ones() -> None:
    times = known(runs=4)
    assert times.tiny_s("tiny") is None
    times.add_run("tiny", 0.0001)
    assert times.tiny_s("tiny") == pytest.approx(0.0001)
    assert times.tiny_s("another") is None
    times.add_run("tiny", 10 * TINY_S)
    times.add_run("tiny", 10 * TINY_S)
    assert times.tiny_s("tiny") is None


def test_tiny_tasks_share_slots_evenly() -> None:
    batcher = MicroBatcher(known(), free_slots=4, waiting=10)
    assert place_all(batcher, 10) == 10
    assert sizes(batcher) == [3, 3, 3, 1]


def test_each_slot_has_its_own_as_long_as_slots_suffice() -> None:
    batcher = MicroBatcher(known(), free_slots=4, waiting=3)
    assert place_all(batcher, 3) == 3
    assert sizes(batcher) == [1, 1, 1]


def test_tasks_of_unknown_length_go_alone() -> None:
    batcher = MicroBatcher(RunTimes(), free_slots=2, waiting=10)
    assert place_all(batcher, 10) == 2
    assert sizes(batcher) == [1, 1]


def test_replays_go_alone() -> None:
    batcher = MicroBatcher(known(), free_slots=3, waiting=10)
    assert place_all(batcher, 10, attempt=2) == 3


def test_a_micro_batch_is_bounded_in_members_bytes_and_expected_time() -> None:
    assert place_all(MicroBatcher(known(), 1, 10_000), 10_000) == MAX_BATCH_TASKS
    assert place_all(MicroBatcher(known(), 1, 10_000), 10_000, size=MAX_BATCH_BYTES // 8 - 256) == 8
    assert place_all(MicroBatcher(known(), 1, 10_000), 10_000, foreign=MAX_BATCH_BYTES // 16) < 8  # in hexadecimal
    assert place_all(MicroBatcher(known(seconds=0.002), 1, 10_000), 10_000) == pytest.approx(MAX_BATCH_S / 0.002, abs=1)


def test_a_heavy_task_behind_tiny_ones_keeps_its_place() -> None:
    batcher = MicroBatcher(known(), free_slots=1, waiting=10)
    assert batcher.place_task(pulled(0), admitted())
    assert not batcher.place_task(pulled(1), admitted("heavy"))  # the intake stops here, so no task overtakes it
