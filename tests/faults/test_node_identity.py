"""Boots, locks, leases and fencing, with real processes that the tests kill and freeze."""

import os
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from agents.membership.identity import NodeIdentity
from headrace.contract.cluster import Heartbeat
from headrace.contract.ledger import Failure
from headrace.contract.outcome import Outcome
from headrace.contract.records import Source
from headrace.contract.states import Cause
from headrace.contract.task import Task
from headrace.errors import UsageError
from headrace.kafka.sender import Sender
from headrace.settings import Settings
from tests.faults.processes.victim import Victim
from tests.rigs.core import Core, Log, cores, other, record
from tests.rigs.topics import PARTITIONS

LEASE_S = 3.0


def dead_boots(log: Log) -> set[str]:
    return {b.boot for b in map(Heartbeat.decode, log.read("nodes")) if b.state == "dead"}


def test_a_second_process_of_the_same_node_is_refused_with_a_message(tmp_path: Path) -> None:
    first, second = NodeIdentity("node-1", tmp_path), NodeIdentity("node-1", tmp_path)
    assert first.take_lock(0.1) is None
    with pytest.raises(UsageError, match="'node-1' runs already"):
        second.take_lock(0.1)
    first.release_lock()
    assert second.take_lock(0.1) is None  # a clean end leaves nothing to repair
    second.release_lock()


def test_a_child_that_outlives_its_node_keeps_the_boot_from_being_called_dead(tmp_path: Path) -> None:
    import fcntl

    first = NodeIdentity("node-1", tmp_path)
    first.take_lock(0.1)
    child = os.open(first.children_lock_path, os.O_RDWR)
    fcntl.flock(child, fcntl.LOCK_SH)
    os.close(first._lock)  # as the kernel does for a process that was killed
    second = NodeIdentity("node-1", tmp_path)
    assert second.take_lock(0.1) is None
    os.close(second._lock)
    os.close(child)
    third = NodeIdentity("node-1", tmp_path)
    before = third.take_lock(0.1)
    assert before is not None
    assert before.boot == second.boot
    third.release_lock()


def test_a_restarted_node_takes_over_without_waiting_for_session_or_lease(
    kafka_settings: Settings, sender: Sender
) -> None:
    log = Log(kafka_settings)
    with Victim(kafka_settings) as victim:
        victim.wait("ready")
        sender.send_all([record(), record()])
        victim.wait("job")
        victim.wait("job")
        victim.kill()
    killed = time.monotonic()
    core = Core(kafka_settings)
    assert core.before is not None
    with cores(core):
        core.wait_jobs(2)
        took_s = time.monotonic() - killed
        assert core.before.boot in dead_boots(log)
    assert took_s < 5.5  # the group's session alone takes 6 s


def test_a_node_lost_for_good_is_replaced_after_its_lease_by_another(
    kafka_settings: Settings, sender: Sender, tmp_path: Path
) -> None:
    settings = replace(kafka_settings, lease_s=LEASE_S)
    log, survivor = Log(settings), Core(other(settings, tmp_path / "b"), "node-2")
    with cores(survivor), Victim(settings) as victim:
        victim.wait("ready")
        ids = [str(uuid.uuid4()) for _ in range(8)]
        survivor.end_each()
        sender.send_all(record(i, partition=n % PARTITIONS) for n, i in enumerate(ids))
        lost = {victim.wait("job").split()[1] for _ in range(2)}
        victim.kill()
        while not {o.id for o in map(Outcome.decode, log.read("results"))} >= set(ids):
            pass
        log.wait_no_claims()
        replayed = {j.task.id: j.task for j in survivor.jobs if j.task.attempt == 2}
        assert set(replayed) == lost
        assert all(t.ledger[0].cause is Cause.NODE_LOSS for t in replayed.values())
        assert len([j for j in survivor.jobs if j.task.attempt == 1]) == len(ids) - len(lost)


def test_a_frozen_node_fences_itself_and_goes_on_under_a_new_boot(
    kafka_settings: Settings, sender: Sender, tmp_path: Path
) -> None:
    settings = replace(kafka_settings, lease_s=LEASE_S)
    log, survivor = Log(settings), Core(other(settings, tmp_path / "b"), "node-2", slots=1)
    with Victim(settings, attempts="wait", fence=True, slots=1) as victim:
        victim.wait("ready")
        task_id = str(uuid.uuid4())
        sender.send_all([record(task_id)])
        victim.wait("job")
        with cores(survivor):
            survivor.end_each()
            victim.stop()
            outcome = Outcome.decode(log.wait("results", 1)[0])
            assert (outcome.id, outcome.attempt, outcome.boot) == (task_id, 2, survivor.node.boot)
            victim.go_on()
            old = outcome.ledger[0]
            assert old.cause is Cause.NODE_LOSS
            victim.write_line("end")  # the attempt that ran at the freeze ends now: nothing of it may be sent
            for _ in range(100):  # until it is a member again, and works
                sender.send_all(record(partition=p) for p in range(PARTITIONS))
                if victim.has("job"):
                    break
            else:
                pytest.fail("the fenced node gets no more jobs")
            while log.live_claims():
                victim.write_line("end")
    outcomes = [o for o in map(Outcome.decode, log.read("results")) if o.id == task_id]
    assert len(outcomes) == 1


def test_a_delayed_retry_outlives_its_node(kafka_settings: Settings, sender: Sender) -> None:
    """A retry waits on the node after repeated failures; the node dies; the reaper sends it and charges it once."""
    task_id, log = str(uuid.uuid4()), Log(kafka_settings)
    first = Failure(1, Cause.PROCESS_DEATH, node="node-1", started_ms=1, ended_ms=2, detail="killed by SIGKILL")
    again = Task(
        task_id, record().value or b"", attempt=1, source=Source("tasks.normal", 0, 0), submitted_ms=1
    ).next_attempt(first)
    with Victim(kafka_settings, attempts="die", slots=1) as victim:
        victim.wait("ready")
        sender.send_all([again])
        victim.wait("ended")
        victim.kill()
    core = Core(kafka_settings)
    with cores(core):
        [job] = core.wait_jobs(1)
        assert [(f.attempt, f.cause) for f in job.task.ledger] == [(1, Cause.PROCESS_DEATH), (2, Cause.PROCESS_DEATH)]
        assert job.task.attempt == 3
        core.end(job)
        log.wait_no_claims()
