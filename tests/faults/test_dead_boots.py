"""Boots that have been dead for long are removed from `nodes`; nothing needs their records any more."""

import json
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from agents.membership.dead_boots import DeadBoots
from agents.membership.death_notices import boot_tombstone
from headrace.kafka.sender import Sender
from headrace.settings import Settings
from tests.faults.processes.victim import Victim
from tests.rigs.core import Core, Log, cores, record


@pytest.fixture
def settings(kafka_settings: Settings, topics: str) -> Settings:
    return replace(kafka_settings, lease_s=2.0)


def wait(reached: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline, what


def last_value(log: Log, boot: str) -> bytes | None:
    """The newest value of the boot on `nodes`, None for a tombstone; b"" when there is no record."""
    return ([b""] + [r.value for r in log.read("nodes") if r.key == boot.encode()])[-1]  # type: ignore[list-item]


def test_a_dead_boot_leaves_nodes_and_what_it_held_is_run(settings: Settings, sender: Sender) -> None:
    log = Log(settings)
    with Victim(settings) as victim:
        victim.wait("ready")
        sender.send_all([record()])
        victim.wait("job")
    core = Core(settings)
    core.registry.dead_boots.keep_s = 0.0
    assert core.before is not None
    with cores(core):
        [job] = core.wait_jobs(1, 60)
        wait(lambda: last_value(log, core.before.boot) is None, "the dead boot's tombstone")  # type: ignore[union-attr]
        assert job.task.attempt == 2
        core.end(job)
        log.wait_no_claims(60)
        assert last_value(log, core.node.boot) not in (None, b""), "a live boot stays"


def test_a_claim_of_a_boot_that_nodes_no_longer_knows_is_reaped_all_the_same(
    settings: Settings, sender: Sender
) -> None:
    with Victim(settings) as victim:
        victim.wait("ready")
        sender.send_all([record()])
        victim.wait("job")
    lock = settings.data / "nodes" / "node-1.lock"
    kept = json.loads(lock.read_text())
    sender.send_all([boot_tombstone(kept["boot"])])
    lock.write_text(
        json.dumps(kept | {"boot": "0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a11"})
    )  # so the new process does not declare the old boot dead
    core = Core(settings)
    with cores(core):
        [job] = core.wait_jobs(1, 60)
        assert job.task.attempt == 2
        core.end(job)
        Log(settings).wait_no_claims(60)


def test_a_node_whose_own_boot_is_taken_from_nodes_fences_itself(settings: Settings, sender: Sender) -> None:
    core = Core(settings, fence=True)
    with cores(core):
        old = core.node.boot
        sender.send_all([boot_tombstone(old)])
        wait(lambda: core.node.boot != old, "a new boot")


def test_a_boot_may_go_an_hour_after_its_notice_was_read_unless_a_claim_names_it() -> None:
    now = 5000.0
    boots = DeadBoots(1000, lambda: now)
    boots.note_death("a")
    now = 5100
    boots.note_death("b")
    now = 5900
    boots.note_death("a")  # repeated: it has been dead since the first
    assert boots.due_for_removal(()) == []
    now = 6000
    assert boots.due_for_removal(()) == ["a"]
    assert boots.due_for_removal({"a"}) == []
    now = 6100
    assert boots.due_for_removal(()) == ["a", "b"]
    boots.forget_boot("a")
    assert boots.due_for_removal(()) == ["b"]
