"""The cancellations that a node keeps in its file: what it must not trust after a start."""

import sqlite3
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from agents.intake.cancellations import Cancellations
from headrace.contract.cluster import Cancel
from headrace.kafka.client import Kafka
from headrace.kafka.sender import Sender
from headrace.settings import Settings
from tests.rigs.sqlite_files import flip_pages, truncate
from tests.rigs.topics import PARTITIONS


def test_a_control_log_that_was_recreated_is_read_before_it_counts_as_read(
    kafka_settings: Settings, sender: Sender, topics: str
) -> None:
    """Its topic was deleted and created again: the stored position is far beyond the new log's end."""
    kafka, file, task_id = Kafka(kafka_settings, "test"), kafka_settings.data / "control.db", str(uuid.uuid4())
    before = Cancellations(kafka, file)
    before.start_positions({})
    before.save_positions({("tasks.control", p): 1000 for p in range(PARTITIONS)})
    before._close_file()
    sender.send_all([Cancel(task_id).encode()])
    cancellations = Cancellations(kafka, file)
    cancellations.start()
    try:
        assert cancellations.wait_caught_up(60)
        assert cancellations.is_cancelled(task_id)
    finally:
        cancellations.close()


@pytest.mark.parametrize("damage", [flip_pages, truncate])
def test_a_damaged_file_is_filled_from_the_log_again_and_nothing_starts_meanwhile(
    kafka_settings: Settings, sender: Sender, topics: str, damage: Callable[[Path], None]
) -> None:
    file, told = kafka_settings.data / "control.db", []
    ids = [str(uuid.uuid4()) for _ in range(300)]
    sender.send_all([Cancel(i).encode() for i in ids])
    cancellations = Cancellations(Kafka(kafka_settings, "test"), file, told.append)
    cancellations.start()
    try:
        assert cancellations.wait_caught_up(60)
        assert sorted(told) == sorted(ids)
        damage(file)
        first = [cancellations.is_cancelled(i) for i in ids]
        assert not all(first), "the damage was not met"
        assert cancellations.wait_until_read(cancellations.request_ends(), lambda: False)
        assert all(cancellations.is_cancelled(i) for i in ids)
        assert sorted(told) == sorted(ids * 2), "what runs by now is killed again"
        wait_until(lambda: cancellations.check() is None, cancellations.check)
        assert cancellations.rebuilds.count == 1
    finally:
        cancellations.close()


def test_a_locked_file_is_waited_for_in_words_blocks_no_reader_and_is_kept(
    kafka_settings: Settings, sender: Sender, topics: str
) -> None:
    file, first, second = kafka_settings.data / "control.db", str(uuid.uuid4()), str(uuid.uuid4())
    sender.send_all([Cancel(first).encode()])
    cancellations = Cancellations(Kafka(kafka_settings, "test"), file)
    cancellations.start()
    try:
        assert cancellations.wait_caught_up(60)
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            sender.send_all([Cancel(second).encode()])
            began = time.monotonic()
            assert cancellations.is_cancelled(first)
            assert time.monotonic() - began < 4, "the writer waits five seconds for the lock"
            wait_until(lambda: "another process has locked it" in (cancellations.check() or ""), cancellations.check)
            other.execute("ROLLBACK")
        assert cancellations.wait_until_read(cancellations.request_ends(), lambda: False)
        wait_until(lambda: cancellations.is_cancelled(first) and cancellations.is_cancelled(second), lambda: "lost")
        assert cancellations.rebuilds.count == 0
    finally:
        cancellations.close()


def wait_until(condition: Callable[[], bool], told: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, told()
        time.sleep(0.02)
