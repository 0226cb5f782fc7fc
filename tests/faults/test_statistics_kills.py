"""The statistics' driver is killed with SIGKILL in the middle of batches, and the tables still equal a recount.

Once in `make test`, ten times in `make faults`. A batch is under way while the checkpoint has its offsets and not yet
its commit.
"""

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headrace.settings import Settings
from headrace.storage.mysql import Database
from infra.local.roles import Role
from spark_analytics.query import CHECKPOINT
from tests.rigs.lifecycle import Sends, recount, rows, stories, wait_until_counted

KILLS = 10 if os.environ.get("HEADRACE_FAULTS_MINUTES") else 1
SEED = int(os.environ.get("HEADRACE_FAULTS_SEED") or random.randrange(10**6))
PATIENCE_S = 120.0


@contextmanager
def submitting(settings: Settings) -> Iterator[None]:
    """Sends task lifecycles in the background, with repeats among them."""
    over, send = threading.Event(), Sends(settings)

    def run() -> None:
        seed = SEED
        while not over.is_set():
            told = stories(20, seed)
            send(r for story in [*told, *told[:4]] for r in story)
            over.wait(0.1)
            seed += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        send.close()


def batch_under_way(checkpoint: Path, after: int) -> int:
    """Waits for a batch later than `after` that has begun and is not committed; returns its number."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        begun, done = (
            {int(f.name) for f in (checkpoint / folder).glob("*") if f.name.isdigit()}
            for folder in ("offsets", "commits")
        )
        if late := [n for n in begun - done if n > after]:
            return max(late)
        time.sleep(0.005)
    raise AssertionError("no batch has begun")


def was_cut_short(checkpoint: Path, batch: int) -> bool:
    return not (checkpoint / "commits" / str(batch)).exists()


@pytest.mark.timeout((KILLS + 2) * PATIENCE_S)
def test_a_driver_killed_in_the_middle_of_batches_counts_as_if_nothing_had_happened(
    statistics: Role, statistics_settings: Settings, topics: str, database: Database
) -> None:
    chance = random.Random(SEED)
    checkpoint, batch, cut = statistics_settings.data / "analytics" / CHECKPOINT, -1, 0
    with submitting(statistics_settings):
        for _ in range(3 * KILLS):  # a kill that comes after its batch's end does not count
            statistics.launch()
            batch = batch_under_way(checkpoint, batch)
            time.sleep(chance.choice((0.0, 0.05, 0.2, 0.5, 1.0)))  # into the batch, at a random point
            statistics.kill()
            cut += was_cut_short(checkpoint, batch)
            if cut == KILLS:
                break
    statistics.start(PATIENCE_S)
    wait_until_counted(database, recount(statistics_settings.kafka, topics), PATIENCE_S)
    assert cut == KILLS, f"seed {SEED}: {cut} of {KILLS} kills hit a batch"
    assert rows(database, "SELECT COUNT(DISTINCT checkpoint) FROM batches") == [(1,)]
    statistics.stop()
