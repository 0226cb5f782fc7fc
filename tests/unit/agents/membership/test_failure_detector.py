"""Leases: when a boot counts as dead, and what only looks like a death."""

import pytest

from agents.membership.failure_detector import FailureDetector
from headrace.contract.cluster import Heartbeat
from tests.rigs.clock import Clock

LEASE_S = 9.0


def beat(boot: str, state: str = "alive") -> Heartbeat:
    return Heartbeat(boot, "node", host="host", pid=1, slots=2, started_ms=0, state=state)  # type: ignore[arg-type]


class World:
    """A second passes at a time: some nodes send a heartbeat, and the detector ticks."""

    def __init__(self) -> None:
        self.clock = Clock(1000.0)
        self.failure_detector = FailureDetector(LEASE_S, self.clock)

    def pass_s(self, seconds: int, *beating: str) -> None:
        for _ in range(seconds * 4):
            self.clock.now += 0.25
            self.failure_detector.tick()
            if self.clock.now % 1 == 0:
                for boot in beating:
                    self.failure_detector.record_heartbeat(beat(boot))


@pytest.fixture
def world() -> World:
    return World()


def test_a_silent_boot_is_dead_after_its_lease_and_not_before(world: World) -> None:
    world.pass_s(5, "us", "them")
    world.pass_s(8, "us")
    assert not world.failure_detector.is_dead("them")
    world.pass_s(2, "us")
    assert world.failure_detector.is_dead("them")
    assert not world.failure_detector.is_dead("us")


def test_when_all_are_silent_no_boot_dies_and_all_leases_are_renewed(world: World) -> None:
    world.pass_s(5, "us", "them")
    world.pass_s(60)
    assert not world.failure_detector.is_dead("them")
    world.pass_s(8, "us")
    assert not world.failure_detector.is_dead("them")
    world.pass_s(3, "us")
    assert world.failure_detector.is_dead("them")


def test_a_process_that_was_frozen_itself_declares_no_boot_dead_at_once(world: World) -> None:
    world.pass_s(5, "us", "them")
    world.clock.now += 30
    assert not world.failure_detector.is_dead("them")
    world.pass_s(5, "us")
    assert not world.failure_detector.is_dead("them")


def test_a_death_notice_needs_no_lease_and_is_final(world: World) -> None:
    world.pass_s(5, "us", "them")
    world.failure_detector.record_heartbeat(beat("them", "dead"))
    assert world.failure_detector.is_dead("them")
    world.failure_detector.record_heartbeat(beat("them"))
    assert world.failure_detector.is_dead("them")
    assert "them" not in world.failure_detector.live_heartbeats()


def test_an_unknown_boot_gets_one_lease(world: World) -> None:
    world.pass_s(5, "us")
    assert not world.failure_detector.is_dead("stranger")
    world.pass_s(8, "us")
    assert not world.failure_detector.is_dead("stranger")
    world.pass_s(2, "us")
    assert world.failure_detector.is_dead("stranger")
