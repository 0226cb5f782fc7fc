"""The arbiter in this process, on a real broker, with a log whose clock the test sets."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.storekeeper.arbiter import Arbiter
from agents.storekeeper.metrics import Metrics
from agents.storekeeper.result_assembly import ABANDONED_S, AGREED_S
from agents.storekeeper.result_store import ResultStore
from agents.storekeeper.retry_until import RetryUntilStopped
from agents.storekeeper.terminal_index import TerminalIndex
from headrace.contract.outcome import Outcome
from headrace.contract.records import Record
from headrace.kafka.client import Kafka
from headrace.kafka.partitioner import partition_of
from headrace.settings import Settings
from headrace.storage.results_root import open_directory
from tests.rigs.storekeeper import completed, in_chunks
from tests.rigs.topics import PARTITIONS

DAY_MS = int(ABANDONED_S * 1000)


@pytest.fixture
def arbiter(kafka_settings: Settings, topics: str, tmp_path: Path) -> Iterator[Arbiter]:
    root, index = open_directory(tmp_path / "results"), TerminalIndex(tmp_path / "index.db")
    store = ResultStore(root)
    store.open()
    arbiter = Arbiter(Kafka(kafka_settings, "test"), store, index, Metrics(), RetryUntilStopped())
    yield arbiter
    arbiter.close()
    store.close()
    index.close()
    root.close()


def first_chunk(partition: int) -> Outcome:
    """The first chunk of a result whose task id belongs in that partition."""
    while partition_of((task_id := str(uuid.uuid4())).encode(), PARTITIONS) != partition:
        pass
    return in_chunks(completed(b"x" * 1_000_000, id=task_id))[0]


def test_a_half_sent_result_is_dropped_after_a_day_by_every_clock(
    arbiter: Arbiter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(arbiter.chunk_sets, "_clock", lambda: now)

    def read(outcome: Outcome, at_ms: int) -> None:
        sent = outcome.encode()
        arbiter.handle_batch(
            [Record("results", 1, 0, timestamp_ms=at_ms, key=sent.key, value=sent.value, headers=sent.headers)]
        )

    read(first_chunk(1), 1_000)
    now = AGREED_S + 1
    read(first_chunk(1), 1_000 + DAY_MS)
    assert len(arbiter.chunk_sets) == 2
    read(first_chunk(1), 1_001 + DAY_MS)
    assert len(arbiter.chunk_sets) == 2
    assert len(list((tmp_path / "results" / ".headrace").glob("*/*-*"))) == 2
