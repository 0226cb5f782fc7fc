"""Self-fencing: what counts as a freeze, and in which order a boot ends."""

from pathlib import Path

import pytest

from agents.membership.fencing import Fence
from agents.membership.identity import NodeIdentity
from tests.rigs.clock import Clock

LEASE_S = 10.0


@pytest.fixture
def node(tmp_path: Path) -> NodeIdentity:
    return NodeIdentity("node-1", tmp_path)


def test_a_gap_shorter_than_the_lease_is_not_a_freeze(node: NodeIdentity) -> None:
    clock, boot, ended = Clock(50.0), node.boot, list[str]()
    fence = Fence(node, LEASE_S, [ended.append], clock)
    clock.now += 8.9
    assert node.is_current(boot)
    fence.check_clock()
    assert (node.boot, ended) == (boot, [])


def test_a_frozen_boot_is_not_current_even_before_the_fence_has_checked_the_clock(node: NodeIdentity) -> None:
    clock, boot = Clock(50.0), node.boot
    fence = Fence(node, LEASE_S, [], clock)
    fence.arm()
    clock.now += 9.1
    assert not node.is_current(boot)
    fence.check_clock()
    assert node.boot != boot
    assert node.is_current(node.boot)
    assert not node.is_current(boot)


def test_a_frozen_boot_is_never_current_during_its_fencing(tmp_path: Path) -> None:
    clock, spoke = Clock(50.0), []

    class Watched(NodeIdentity):
        def begin_boot(self, boot: str) -> str:
            spoke.append(self.is_current(self.boot))  # another thread may ask at this moment
            return super().begin_boot(boot)

    node = Watched("node-1", tmp_path)
    fence = Fence(node, LEASE_S, [], clock)
    fence.arm()
    clock.now += 60
    fence.check_clock()
    assert spoke == [False]
    assert node.is_current(node.boot)


def test_the_boot_changes_first_and_the_hooks_run_in_order_with_the_old_one(node: NodeIdentity) -> None:
    clock, boot = Clock(50.0), node.boot
    said: list[tuple[str, str, bool]] = []
    hooks = [lambda old: said.append(("kill", old, node.boot != old)), lambda old: said.append(("dead", old, True))]
    fence = Fence(node, LEASE_S, hooks, clock)
    clock.now += 60
    fence.check_clock()
    assert said == [("kill", boot, True), ("dead", boot, True)]


def test_a_hook_that_fails_does_not_keep_the_next_one_from_running(node: NodeIdentity) -> None:
    clock, called = Clock(50.0), []

    def fails(_: str) -> None:
        raise OSError("no more processes")

    fence = Fence(node, LEASE_S, [fails, called.append], clock)
    clock.now += 60
    fence.check_clock()
    assert len(called) == 1


def test_a_death_notice_fences_once_and_only_the_boot_it_names(node: NodeIdentity) -> None:
    ended: list[str] = []
    fence, boot = Fence(node, LEASE_S, [ended.append], Clock(50.0)), node.boot
    fence.declared_dead("another")
    fence.check_clock()
    assert node.boot == boot
    fence.declared_dead(boot)
    fence.check_clock()
    fence.declared_dead(boot)
    fence.check_clock()
    assert ended == [boot]


def test_the_new_boot_is_current_while_the_old_one_is_being_ended(node: NodeIdentity) -> None:
    clock, spoke = Clock(50.0), []

    def slow(_: str) -> None:
        clock.now += 30  # Kafka is away, and the death notice of the old boot is delayed
        spoke.append(node.is_current(node.boot))

    fence = Fence(node, LEASE_S, [slow, slow], clock)
    fence.arm()
    clock.now += 60
    fence.check_clock()
    assert spoke == [True, True]  # the two hooks have run once
