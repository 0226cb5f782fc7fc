"""Which boot of a node is shown, and what its state is, whatever order the records and the clocks are in."""

import time
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from agents.membership.death_notices import death_notice, drain_notice
from gateway.routes.cluster import node_json
from gateway.view.cluster import ClusterView
from headrace.contract.cluster import Heartbeat, KindInfo, Wait
from headrace.contract.records import Outgoing, Record
from headrace.kafka.client import Kafka
from headrace.settings import Settings
from infra.local.process import free_port
from tests.rigs.clock import Clock

OLD = Heartbeat("old", "node-1", host="a", pid=1, slots=2, started_ms=1000, kinds=("prime",))
NEW = replace(OLD, boot="new", pid=2, started_ms=2000)
# As an earlier release wrote it when a process found its predecessor dead: later than the new boot's own start.
NOTICE = replace(OLD, pid=0, slots=0, started_ms=3000, kinds=(), state="dead")


class View:
    """A cluster view that reads records without Kafka."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock(1000.0)
        self.view = ClusterView(Kafka(Settings(kafka=f"127.0.0.1:{free_port()}", data=folder), "view"), self.clock)
        self._offset = 0

    def read(self, *beats: Heartbeat) -> "View":
        for beat in beats:
            self._apply(beat.encode())
        return self

    def announce(self, kind: KindInfo) -> None:
        self._apply(kind.encode())

    def _apply(self, sent: Outgoing) -> None:
        self._offset += 1
        now_ms = int(time.time() * 1000)
        self.view.apply_record(Record(sent.topic, 0, self._offset, timestamp_ms=now_ms, key=sent.key, value=sent.value))

    def shown(self, **options: Any) -> list[tuple[str, int]]:
        """(state, pid) of each node."""
        found = [node_json(node, age_s, **options) for node, age_s in self.view.nodes()]
        return [(n["state"], n["pid"]) for n in found]


@pytest.fixture
def view(tmp_path: Path) -> View:
    return View(tmp_path)


@pytest.mark.parametrize("beats", [*permutations([OLD, NOTICE, NEW])])
def test_a_node_that_was_started_again_is_alive_in_whatever_order_it_is_heard(
    view: View, beats: tuple[Heartbeat, ...]
) -> None:
    assert view.read(*beats).shown() == [("alive", 2)]


@pytest.mark.parametrize("notice", [NOTICE, death_notice("old", OLD), death_notice("old", None)])
def test_a_dead_boot_stays_dead_and_is_shown_with_what_was_known(view: View, notice: Heartbeat) -> None:
    assert view.read(OLD, notice, OLD).shown() == [("dead", 1)]


def test_a_drained_boot_is_drained_even_when_a_reaper_declares_it_dead_too(view: View) -> None:
    assert view.read(OLD, drain_notice(OLD)).shown() == [("drained", 1)]
    assert view.read(death_notice("old", None)).shown() == [("drained", 1)]


def test_a_boot_whose_clock_was_ahead_gives_way_to_the_one_that_is_heard(view: View) -> None:
    view.read(replace(OLD, started_ms=9000))
    view.clock.now += 11
    assert view.read(NEW).shown() == [("alive", 2)]


def test_a_silent_node_is_dead_unless_kafka_is_away(view: View) -> None:
    view.read(OLD)
    view.clock.now += 11
    assert view.shown() == [("dead", 1)]
    assert view.shown(is_kafka_reachable=False) == [("alive", 1)]
    assert view.read(replace(OLD, state="draining")).shown() == [("draining", 1)]


def test_a_drained_node_stays_drained_until_it_is_forgotten(view: View) -> None:
    view.read(OLD, drain_notice(OLD))
    view.clock.now += 500
    assert view.shown() == [("drained", 1)]
    view.clock.now += 101
    assert view.shown() == []


def test_a_boot_that_was_declared_dead_unseen_is_no_node(view: View) -> None:
    assert view.read(death_notice("x", None), NEW).shown() == [("alive", 2)]


def test_a_kind_names_each_live_node_once(view: View) -> None:
    view.announce(KindInfo("prime", {}, timeout_s=1.0, max_attempts=1))
    view.read(OLD, NEW)
    assert [live for _, live in view.view.kinds()] == [["node-1"]]


def test_a_living_node_is_shown_with_what_stands_still_on_it(view: View) -> None:
    wait = Wait("head", "rare", "a task", 1000, "partition 3 of tasks.normal waits", "tasks.normal/3/7")
    waiting = replace(OLD, waits=(wait,))
    [(node, age_s)] = view.read(waiting).view.nodes()
    assert node_json(node, age_s)["waits"] == [
        {
            "why": "head",
            "name": "rare",
            "task": "a task",
            "count": 1,
            "since": "1970-01-01T00:00:01.000Z",
            "source": "tasks.normal/3/7",
            "text": "partition 3 of tasks.normal waits",
        }
    ]
    [(node, age_s)] = view.read(death_notice("old", waiting)).view.nodes()
    assert node_json(node, age_s)["waits"] == []
