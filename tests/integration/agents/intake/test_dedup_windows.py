"""The window of repeats, read back from a real broker whose clock is wrong."""

import uuid

import pytest

from agents.intake.dedup_windows import DedupWindows
from headrace.contract.records import Outgoing
from headrace.kafka.client import Kafka
from headrace.kafka.partition_counts import read_partition_counts
from headrace.settings import Settings
from tests.rigs.core import submission
from tests.rigs.wrong_clocks import HOUR_S, WrongClocks

PLACE = ("tasks.normal", 0)


@pytest.mark.parametrize(
    "ahead_s",
    [
        pytest.param([0.0] * 4, id="right"),
        pytest.param([-25 * HOUR_S] * 4, id="a day behind"),
        pytest.param([25 * HOUR_S] * 4, id="a day ahead"),
        pytest.param([-25 * HOUR_S] * 3 + [0.0], id="behind, and put right"),
        pytest.param([25 * HOUR_S] + [0.0] * 3, id="ahead, and put right"),
    ],
)
def test_every_recent_record_is_known_again_whatever_its_timestamp(
    kafka_settings: Settings, topics: str, ahead_s: list[float]
) -> None:
    kafka, ids = Kafka(kafka_settings, "window"), [str(uuid.uuid4()) for _ in ahead_s]
    clocks, windows, consumer = WrongClocks(kafka, PLACE[0]), DedupWindows(kafka), kafka.consumer()
    for task_id, ahead in zip(ids, ahead_s, strict=True):
        clocks.send(Outgoing(PLACE[0], task_id.encode(), submission(), partition=0), ahead)
    try:
        windows.read_back(consumer, {PLACE: len(ids)}, {PLACE: 0}, read_partition_counts(kafka, 10.0))
    finally:
        consumer.close()
    assert [windows.window_of(PLACE).has_seen(i, 1) for i in ids] == [True] * len(ids)
