"""Kafka refuses records of the protocol for a while: their owner keeps them, says so, and sends them afterwards.

A limit on the size of records stands for whatever a person has to change: a right, a setting. Nothing is lost, no claim
stays, and no attempt is made twice.
"""

import contextlib
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agents.completion.claim_members import ClaimMembers, send_unstarted_outcome
from agents.intake.admission import Refusal, refusal_outcome
from agents.membership.death_notices import own_death_notice
from headrace.contract.cluster import KindInfo
from headrace.contract.journal import Claim, decode_journal
from headrace.contract.outcome import Outcome
from headrace.contract.records import Record
from headrace.contract.states import Cause, Reason
from headrace.contract.task import Task
from headrace.kafka.client import Kafka
from headrace.kafka.refusals import SHOWN_S
from headrace.kafka.sender import Sender
from headrace.settings import Settings, parse_address
from infra.local.process import free_port
from tests.rigs.core import PATIENCE_S, Core, Log, cores, other, record, submission
from tests.rigs.topics import PROBE, UNLIMITED, limit_records

ELSEWHERE = KindInfo("elsewhere", {"type": "object"}, timeout_s=60.0, max_attempts=3)


@pytest.fixture
def kafka(kafka_settings: Settings, topics: str) -> Kafka:
    return Kafka(kafka_settings, "test")


@pytest.fixture
def log(kafka_settings: Settings, topics: str) -> Log:
    return Log(kafka_settings)


def until(met: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not met():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def says(*made: Core) -> str:
    return "".join(core.sender.check() or "" for core in made)


@contextmanager
def forwarded(port: int, broker: str) -> Iterator[None]:
    """Connects clients of the port with the broker, which then tells them its own address."""
    host, broker_port = parse_address(broker)
    listening, closing = socket.create_server(("127.0.0.1", port)), threading.Event()

    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while not closing.is_set():
                client, broker_side = listening.accept()[0], socket.create_connection((host, broker_port))
                for pair in ((client, broker_side), (broker_side, client)):
                    threading.Thread(target=copy, args=pair, daemon=True).start()
                ends.extend((client, broker_side))

    ends: list[socket.socket] = [listening]
    threading.Thread(target=accept, daemon=True).start()
    try:
        yield
    finally:
        closing.set()
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def own(records: list[Record]) -> list[Record]:
    return [r for r in records if r.key != PROBE]


def test_the_next_attempt_of_a_dead_nodes_task_is_sent_when_kafka_takes_it(
    kafka_settings: Settings, kafka: Kafka, log: Log, sender: Sender, tmp_path: Path
) -> None:
    dying, living = (
        Core(kafka_settings, fence=True),
        Core(other(kafka_settings, tmp_path / "other"), "node-2", fence=True),
    )
    with cores(dying, living):
        task_id = str(uuid.uuid4())
        sender.send_all([record(task_id)])
        until(lambda: dying.jobs or living.jobs, "it is claimed")
        claimed = (dying.jobs or living.jobs)[0].claim
        limit_records(kafka, "tasks.high", 10)
        sender.send_all([own_death_notice(dying.node, claimed.for_).encode()])
        until(lambda: "tasks.high" in says(dying, living), "the role is not ready")
        assert [str(c.key) for c in log.live_claims()] == [str(claimed.key)]
        limit_records(kafka, "tasks.high", UNLIMITED)
        until(lambda: own(log.read("tasks.high")), "the next attempt")
        until(lambda: len(dying.jobs + living.jobs) == 2, "it is claimed again")
        for core in (dying, living):
            for job in core.jobs:
                if job.task.attempt == 2:
                    core.end(job)
        log.wait_no_claims()
        assert {Task.from_record(r).attempt for r in own(log.read("tasks.high"))} == {2}  # twice after a rebalance
        assert len(dying.jobs + living.jobs) == 2
        [outcome] = [o for o in map(Outcome.decode, own(log.read("results"))) if o.id == task_id]
        assert (outcome.outcome, outcome.attempt) == ("completed", 2)
        until(lambda: not says(dying, living), f"ready again {SHOWN_S:g} s after the last refusal")


@pytest.mark.parametrize("topic", ["results", "tasks.high", "tasks.running", "lifecycle.started"])
def test_the_end_of_an_attempt_waits_until_kafka_takes_it(
    topic: str, kafka_settings: Settings, kafka: Kafka, log: Log, sender: Sender
) -> None:
    core = Core(kafka_settings)
    with cores(core):
        if topic == "lifecycle.started":
            limit_records(kafka, topic, 10)
        sender.send_all([record()])
        job = core.wait_jobs(1)[0]
        if topic != "lifecycle.started":
            limit_records(kafka, topic, 10)
        how = {"cause": Cause.ERROR, "detail": "ValueError"} if topic == "tasks.high" else {}
        ending = core.end_soon(job, **how)
        until(lambda: topic in says(core), "the role is not ready")
        assert ending.done() == (topic == "tasks.running"), "the tombstone is sent without waiting"
        assert len(log.live_claims()) == 1
        limit_records(kafka, topic, UNLIMITED)
        ending.result(PATIENCE_S)
        if topic == "tasks.high":
            core.end(core.wait_jobs(2)[1])
        log.wait_no_claims()
        assert [o.outcome for o in map(Outcome.decode, own(log.read("results"))) if o.name] == ["completed"]


def begin_epoch(core: Core, log: Log, sender: Sender) -> None:
    """Runs a task, so that partition 0 has its epoch: the next record for the journal is a claim."""
    sender.send_all([record(partition=0)])
    core.end(core.wait_jobs(1)[0])
    log.wait_no_claims()
    core.jobs.clear()


def kinds_in_journal(log: Log) -> list[str]:
    return [type(decode_journal(r)).__name__ for r in own(log.read("tasks.running"))]


@pytest.mark.parametrize("refused", ["before claim", "before epoch"])
def test_refused_claims_are_made_again_and_leave_nothing_behind(
    refused: str, kafka_settings: Settings, kafka: Kafka, log: Log, sender: Sender
) -> None:
    turns: list[str] = []
    core = Core(kafka_settings, failpoint=lambda name: turns.append(name) if name == refused else None)
    with cores(core):
        if refused == "before claim":
            begin_epoch(core, log, sender)
        turns.clear()
        before = kinds_in_journal(log)
        limit_records(kafka, "tasks.running", 10)
        sender.send_all([record(partition=0)])
        until(lambda: "tasks.running" in says(core), "the role is not ready")
        until(lambda: len(turns) >= 3, "it is tried again")
        assert not core.jobs
        assert len(core.sender._held) == 0
        limit_records(kafka, "tasks.running", UNLIMITED)
        core.end(core.wait_jobs(1)[0])
        log.wait_no_claims()
        made = kinds_in_journal(log)[len(before) :]
        assert made == ["EpochMark"] * (refused == "before epoch") + ["Claim", "Tombstone"]
        assert len(core.jobs) == 1


@pytest.mark.parametrize("unanswered", ["before claim", "before epoch"])
def test_claims_without_an_answer_are_made_once_and_end_after_their_answer(
    unanswered: str, kafka_settings: Settings, kafka: Kafka, log: Log, sender: Sender
) -> None:
    turns: list[str] = []
    core = Core(kafka_settings, failpoint=lambda name: turns.append(name) if name == unanswered else None)
    port = free_port()
    cut_off = Sender(Kafka(replace(kafka_settings, kafka=f"127.0.0.1:{port}"), "cut off"))
    with cores(core):
        if unanswered == "before claim":
            begin_epoch(core, log, sender)
        turns.clear()
        before = kinds_in_journal(log)
        core.intake._claims._sender = cut_off
        sender.send_all([record(partition=0)])
        until(lambda: "has not answered claims" in (core.intake.check() or ""), "the role is not ready")
        assert len(turns) == 1
        with forwarded(port, kafka_settings.kafka):
            core.end(core.wait_jobs(1)[0])
        log.wait_no_claims()
        twice = ["Claim", "Tombstone"] if unanswered == "before claim" else ["EpochMark", "EpochMark"]
        assert kinds_in_journal(log)[len(before) :] == [*twice, "Claim", "Tombstone"]
        assert len(core.jobs) == 1
    cut_off.close()


def test_the_outcome_of_a_task_that_does_not_start_and_its_tombstone_are_sent_later(
    kafka: Kafka, log: Log, sender: Sender
) -> None:
    task = Task.from_record(
        Record("tasks.normal", 0, 5, timestamp_ms=1, key=str(uuid.uuid4()).encode(), value=submission())
    )
    claim = Claim((task,), by="boot", for_="boot", generation=1, node="node")
    sender.send_all([claim.encode()])
    limit_records(kafka, "results", 10)
    refusal = Refusal(Reason.CANCELLED, "cancelled before it started", "work", "d")
    send_unstarted_outcome(sender, ClaimMembers(), claim, refusal_outcome(task, refusal, boot="boot", node="node"))
    until(sender.check, "the role is not ready")
    assert len(log.live_claims()) == 1
    limit_records(kafka, "results", UNLIMITED)
    log.wait_no_claims()
    assert [o.outcome for o in map(Outcome.decode, own(log.read("results")))] == ["cancelled"]


def test_a_claim_for_another_node_goes_when_kafka_takes_the_word(
    kafka_settings: Settings, kafka: Kafka, log: Log, sender: Sender, tmp_path: Path
) -> None:
    reached: list[str] = []

    def failpoint(name: str) -> None:
        if name == "before go" and not reached:
            reached.append(name)
            limit_records(kafka, "tasks.running", 10)

    host = Core(other(kafka_settings, tmp_path / "other"), "node-2", kinds=(ELSEWHERE,))
    with cores(host):
        owner = Core(kafka_settings, failpoint=failpoint)
        with cores(owner):
            until(lambda: len(owner.intake.places) == 2 and len(host.intake.places) == 2, "both own partitions")
            until(lambda: owner.delegation.choose_host("elsewhere"), "the owner knows the host")
            [partition] = {p for _, p in owner.intake.places}
            sender.send_all([record(value=submission("elsewhere"), partition=partition)])
            until(lambda: "tasks.running" in says(owner), "the role is not ready")
            assert host.jobs == []
            limit_records(kafka, "tasks.running", UNLIMITED)
            [job] = host.wait_jobs(1)
            host.end(job)
            log.wait_no_claims()
            assert len(host.jobs) == 1
