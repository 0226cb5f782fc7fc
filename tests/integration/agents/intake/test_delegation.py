"""Delegation on a real broker: how closely a node follows the journal. Claims for others: tests/faults."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from headrace.kafka.client import UNHURRIED_FETCH
from headrace.settings import Settings
from tests.rigs.core import PATIENCE_S, Core, cores, other


def until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_node_follows_the_journal_closely_only_while_another_one_lives(
    kafka_settings: Settings, topics: str, tmp_path: Path
) -> None:
    settings = replace(kafka_settings, lease_s=2.0)  # a silent node is dead after it
    one = Core(settings, "node-1")
    with cores(one):
        assert one.delegation.wait_caught_up(PATIENCE_S)
        assert one.delegation.consumer_options() == UNHURRIED_FETCH
        with cores(Core(other(settings, tmp_path), "node-2")):
            until(lambda: not one.delegation._is_alone)
            assert one.delegation.wait_caught_up(PATIENCE_S)
            assert one.delegation.consumer_options() == {}
        until(lambda: one.delegation._is_alone)
