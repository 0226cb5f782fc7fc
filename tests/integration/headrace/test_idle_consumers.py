"""Consumers that nobody polls gather what librdkafka tells them, errors above all: no role keeps such a one."""

import time
from pathlib import Path

import pytest

from agents.storekeeper.index_catchup import IndexCatchup
from agents.storekeeper.terminal_index import TerminalIndex
from gateway.kafka.source_reader import SourceReader
from headrace.contract.records import Source
from headrace.errors import Retryable
from headrace.kafka.client import Kafka
from headrace.settings import Settings
from infra.local.process import free_port


def test_the_gateways_reader_keeps_no_errors_while_kafka_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[object] = []
    monkeypatch.setattr("headrace.kafka.client._on_error", taken.append)
    reader = SourceReader(Kafka(Settings(kafka=f"127.0.0.1:{free_port()}", data=tmp_path), "idle"))
    with pytest.raises(Retryable):
        reader.read_record(Source("tasks.dead", 0, 0))
    try:
        before, deadline = len(taken), time.monotonic() + 60
        while len(taken) == before:  # the outage goes on, and nobody reads
            assert time.monotonic() < deadline, "nothing is gathered, or nothing is taken"
            time.sleep(0.5)
            reader.drop_errors()
    finally:
        reader.close()
    reader.drop_errors()  # without a consumer it does nothing


def test_an_admin_client_keeps_no_errors_while_kafka_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[object] = []
    monkeypatch.setattr("headrace.kafka.client._on_error", taken.append)
    kafka, deadline = Kafka(Settings(kafka=f"127.0.0.1:{free_port()}", data=tmp_path), "idle"), time.monotonic() + 60
    kafka.admin()
    while not taken:
        assert time.monotonic() < deadline, "nothing is gathered, or nothing is taken"
        time.sleep(0.5)
        kafka.drop_errors()


def test_the_storekeepers_index_has_a_consumer_only_while_it_reads(
    kafka_settings: Settings, topics: str, tmp_path: Path
) -> None:
    index = TerminalIndex(tmp_path / "index.db")
    try:
        catchup = IndexCatchup(Kafka(kafka_settings, "idle"), index, None, remember_days=1)
        assert catchup.catch_up([0]) == 0
        assert catchup._consumer is None
        catchup.forget_old([0])
        assert catchup._consumer is None
    finally:
        index.close()
