"""A broker's clock that is a day ahead or behind, on a real broker: no result and no remembered id is lost by it."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agents.storekeeper.arbiter import Arbiter
from agents.storekeeper.index_catchup import IndexCatchup
from agents.storekeeper.metrics import Metrics
from agents.storekeeper.result_store import ResultStore
from agents.storekeeper.retry_until import RetryUntilStopped
from agents.storekeeper.terminal_index import TerminalIndex
from headrace.contract.records import Outgoing
from headrace.kafka.client import Kafka
from headrace.kafka.log_time import earlier_now_ms
from headrace.settings import Settings
from headrace.storage.results_root import open_directory
from tests.rigs.core import Log
from tests.rigs.storekeeper import completed, id_in_partition, in_chunks
from tests.rigs.topics import PROBE
from tests.rigs.wrong_clocks import DAY_S, HOUR_S, WrongClocks


@pytest.fixture
def kafka(kafka_settings: Settings, topics: str) -> Kafka:
    return Kafka(kafka_settings, "clocks")


@pytest.fixture
def index(tmp_path: Path) -> Iterator[TerminalIndex]:
    index = TerminalIndex(tmp_path / "index.db")
    yield index
    index.close()


@pytest.mark.parametrize("ahead_s", [25 * HOUR_S, -25 * HOUR_S])
def test_one_wrong_timestamp_drops_no_result_in_chunks(
    kafka: Kafka, kafka_settings: Settings, index: TerminalIndex, tmp_path: Path, ahead_s: float
) -> None:
    clocks = WrongClocks(kafka, "results")
    chunks = in_chunks(completed(b"x" * 1_500_000, id=id_in_partition(0)))
    assert len(chunks) > 2
    clocks.send(in_partition(chunks[0].encode()), min(0.0, ahead_s))
    clocks.send(in_partition(completed(id=id_in_partition(0)).encode()), max(0.0, ahead_s))
    for chunk in chunks[1:]:
        clocks.send(in_partition(chunk.encode()))
    log = Log(kafka_settings)
    with ExitStack() as stack:
        root = open_directory(tmp_path / "results")
        stack.callback(root.close)
        store = ResultStore(root)
        store.open()
        stack.callback(store.close)
        arbiter = Arbiter(kafka, store, index, Metrics(), RetryUntilStopped())
        stack.callback(arbiter.close)
        for record in log.read("results"):
            arbiter.handle_batch([record])
        assert len(log.wait("lifecycle.completed", 2)) == 2
        assert log.read("tasks.dead") == []


@pytest.mark.parametrize("ahead_s", [-25 * HOUR_S, 0.0, 25 * HOUR_S])
def test_no_id_is_forgotten_because_the_brokers_clock_is_wrong(
    kafka: Kafka, index: TerminalIndex, ahead_s: float
) -> None:
    clocks, ids = WrongClocks(kafka, "lifecycle.completed"), [id_in_partition(0) for _ in range(5)]
    for task_id in ids:
        clocks.send(Outgoing("lifecycle.completed", task_id.encode(), b"", partition=0), ahead_s)
    catchup = IndexCatchup(kafka, index, None, remember_days=1)
    assert catchup.catch_up([0]) == len(ids)
    catchup.forget_old([0])
    catchup.close()
    assert index.find_terminal(dict.fromkeys(ids, 0)) == set(ids)


def test_our_own_clock_a_day_ahead_counts_no_more_than_the_logs(kafka: Kafka) -> None:
    clocks, place = WrongClocks(kafka, "lifecycle.completed"), ("lifecycle.completed", 0)
    assert earlier_now_ms(kafka, [place], lambda: 1000.0) == 1_000_000, "an empty place says nothing"
    _, sent_ms = clocks.send(Outgoing("lifecycle.completed", PROBE, b"", partition=0))
    assert earlier_now_ms(kafka, [place], lambda: time.time() + DAY_S) == sent_ms
    clocks.send(Outgoing("lifecycle.completed", PROBE, b"", partition=0), DAY_S)
    assert earlier_now_ms(kafka, [place]) < time.time() * 1000 + 1


def in_partition(record: Outgoing) -> Outgoing:
    return Outgoing(record.topic, record.key, record.value, record.headers, 0)
