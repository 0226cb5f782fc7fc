"""The worker's thread that removes old logs of attempts."""

import os
import threading
import time
import uuid
from pathlib import Path

import pytest

from agents.worker.log_upkeep import LogUpkeep
from headrace.storage.attempt_log import keep_log, log_file
from tests.rigs.storekeeper import wait_for


@pytest.fixture
def logs(tmp_path: Path) -> list[Path]:
    """More than one turn looks at, two days old."""
    found = []
    for _ in range(1200):
        keep_log(tmp_path, task_id := str(uuid.uuid4()), 1, b"printed")
        found.append(log_file(tmp_path, task_id, 1))
        os.utime(found[-1], (time.time() - 2 * 86_400,) * 2)
    return found


def is_running() -> bool:
    return any(t.name == "log-upkeep" for t in threading.enumerate())


def test_old_logs_are_removed_turn_by_turn_and_round_by_round(tmp_path: Path, logs: list[Path]) -> None:
    upkeep = LogUpkeep(tmp_path, 1, turn_s=0.01, round_s=0.01)
    upkeep.start()
    wait_for(lambda: not any(log.exists() for log in logs), "all are removed")
    keep_log(tmp_path, task_id := str(uuid.uuid4()), 1, b"printed")
    os.utime(late := log_file(tmp_path, task_id, 1), (time.time() - 2 * 86_400,) * 2)
    wait_for(lambda: not late.exists(), "the next round removes it")
    upkeep.close()
    assert not is_running()


def test_a_turn_is_bounded_and_an_end_does_not_wait_for_the_round(tmp_path: Path, logs: list[Path]) -> None:
    upkeep = LogUpkeep(tmp_path, 1, turn_s=3600, round_s=3600)
    upkeep.start()
    wait_for(lambda: not all(log.exists() for log in logs), "it has begun")
    upkeep.close()
    assert not is_running()
    assert any(log.exists() for log in logs)


@pytest.mark.parametrize("keep_days", [0, 3])
def test_younger_logs_stay_and_without_a_number_of_days_all(tmp_path: Path, logs: list[Path], keep_days: int) -> None:
    upkeep = LogUpkeep(tmp_path, keep_days, turn_s=0.0, round_s=0.01)
    upkeep.start()
    assert is_running() == (keep_days > 0)
    if keep_days:
        past = logs[0].with_name("2.log")
        past.write_text("printed")
        os.utime(past, (time.time() - 4 * 86_400,) * 2)
        wait_for(lambda: not past.exists(), "a round")
    upkeep.close()
    assert all(log.exists() for log in logs)
