"""A new owner of a partition of the journal begins at the oldest open claim, and judges as one that has read it all."""

import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition

from agents.membership.death_notices import death_notice
from agents.recovery.claimed_ranges import ClaimedRanges
from headrace.contract.journal import Claim, Tombstone, decode_journal
from headrace.contract.ownership import Ownership
from headrace.contract.records import Source
from headrace.contract.task import Task
from headrace.kafka.client import Kafka
from headrace.kafka.groups import INTAKE_GROUP, REAPER_GROUP
from headrace.kafka.reading import committed_offsets
from headrace.kafka.sender import Sender
from headrace.settings import Settings
from tests.rigs.core import PATIENCE_S, Core, Log, cores, other, submission
from tests.rigs.storekeeper import wait_for

JOURNAL = ("tasks.running", 0)
SETTLED = 3000  # claims, each with its tombstone
NEW_BOOT = "the boot that lives"


@pytest.fixture
def settings(kafka_settings: Settings, topics: str) -> Settings:
    """With a lease that does not end: boots die by their death notices."""
    return replace(kafka_settings, lease_s=3600.0)


@pytest.fixture
def kafka(settings: Settings) -> Kafka:
    return Kafka(settings, "test")


@pytest.fixture
def reaping(settings: Settings, tmp_path: Path) -> Callable[[str], Core]:
    """Makes nodes that only reap."""

    def make(name: str) -> Core:
        core = Core(other(settings, tmp_path / name), name)
        core.intake.start = lambda: None  # type: ignore[method-assign]
        return core

    return make


def claim(offset: int, epoch: int, boot: str = NEW_BOOT) -> Claim:
    task = Task(str(uuid.uuid4()), submission(), attempt=1, source=Source("tasks.normal", 0, offset), submitted_ms=1)
    return Claim((task,), by=boot, for_=boot, generation=1, epoch=epoch, node="node-0")


def settle(sender: Sender, offsets: range, epoch: int) -> None:
    settle_all(sender, [claim(offset, epoch) for offset in offsets])


def settle_all(sender: Sender, claims: list[Claim]) -> None:
    sender.send_all([r for c in claims for r in (c.encode(), c.tombstone("done"))], PATIENCE_S)


def commit(kafka: Kafka, group: str, place: tuple[str, int], offset: int) -> None:
    consumer = kafka.consumer(group)
    consumer.commit(offsets=[TopicPartition(kafka.topic(place[0]), place[1], offset)], asynchronous=False)
    consumer.close()


def wait_checkpoint(kafka: Kafka, offset: int) -> None:
    reader = kafka.group_reader(REAPER_GROUP)
    wait_for(
        lambda: committed_offsets(kafka, reader, [JOURNAL])[JOURNAL] == offset, f"the checkpoint is at offset {offset}"
    )


def unsaved(core: Core) -> float:
    return core.metrics.registry.get_sample_value("headrace_worker_unsaved_checkpoints") or 0


def kill(sender: Sender, boot: str) -> None:
    sender.send_all([death_notice(boot, None).encode()], PATIENCE_S)


def tombstones(log: Log) -> dict[str, str]:
    """Why claims have ended, by the boot of each."""
    entries = map(decode_journal, log.read("tasks.running"))
    return {entry.key.boot: entry.why for entry in entries if isinstance(entry, Tombstone)}


def test_a_new_owner_reads_from_the_oldest_open_claim_on_and_replays_it(
    settings: Settings, kafka: Kafka, sender: Sender, reaping: Callable[[str], Core]
) -> None:
    log, lost = Log(settings), claim(SETTLED, 7, "the boot that dies")
    commit(kafka, INTAKE_GROUP, ("tasks.normal", 0), SETTLED + 200)
    settle(sender, range(SETTLED), 7)
    [(_, _, at)] = sender.send_all([lost.encode()], PATIENCE_S)
    settle(sender, range(SETTLED + 1, SETTLED + 100), 7)
    first, second, third = (reaping(name) for name in ("first", "second", "third"))
    with cores(first):
        wait_checkpoint(kafka, at)
    with cores(second):
        kill(sender, "the boot that dies")
        [again] = log.wait("tasks.high", 1)
        assert (again.key, again.number("attempt")) == (lost.tasks[0].id.encode(), 2)
        log.wait_no_claims()
        wait_checkpoint(kafka, at + 1 + 2 * 99 + 1)  # the claim itself, the settled ones behind it, its tombstone
    assert first.count("journal_records") >= 2 * SETTLED
    assert second.count("journal_records") <= 2 * 99 + 2, "what was settled before the open claim is not read"
    with cores(third):
        wait_for(
            lambda: third.reaper._owned.get(0) is not None and third.reaper._owned[0].caught_up, "it has caught up"
        )
    assert third.count("journal_records") == 0


def test_a_claim_that_comes_late_is_void_by_what_was_settled_before_the_checkpoint(
    settings: Settings, kafka: Kafka, sender: Sender, reaping: Callable[[str], Core]
) -> None:
    """A zombie's claim arrives after the claim of its successor has ended and a checkpoint has passed both."""
    log = Log(settings)
    commit(kafka, INTAKE_GROUP, ("tasks.normal", 0), 10)
    settle(sender, range(10), 7)
    first, second = reaping("first"), reaping("second")
    with cores(first):
        wait_checkpoint(kafka, 20)
    sender.send_all([claim(5, 6, "a zombie").encode()], PATIENCE_S)
    with cores(second):
        kill(sender, "a zombie")
        wait_for(lambda: tombstones(log).get("a zombie") == "void", "its claim is void")
    assert log.read("tasks.high") == []
    assert second.count("journal_records") <= 2, "the zombie's claim and its tombstone"


def test_owners_that_a_checkpoint_cannot_hold_are_said_and_the_one_before_it_stays(
    settings: Settings,
    kafka: Kafka,
    sender: Sender,
    reaping: Callable[[str], Core],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As after many restarts within two hours: the claims of each owner lie between those of two others."""
    log, owners = Log(settings), 400
    commit(kafka, INTAKE_GROUP, ("tasks.normal", 0), 2 * owners + 10)
    settle(sender, range(10), 1)
    first, second = reaping("first"), reaping("second")
    with cores(first):
        wait_checkpoint(kafka, 20)
        settle_all(sender, [claim(10 + n, 2 + n) for n in range(owners)])
        wait_for(lambda: unsaved(first) == 1, "the checkpoint is too large")
    assert "too many owners" in caplog.text
    wait_checkpoint(kafka, 20)
    sender.send_all([claim(12, 3, "a zombie").encode(), claim(2 * owners, 3, "a loser").encode()], PATIENCE_S)
    with cores(second):
        kill(sender, "a zombie")
        kill(sender, "a loser")
        wait_for(lambda: tombstones(log).get("a zombie") == "void", "its claim is void")
        [again] = log.wait("tasks.high", 1)
        wait_for(lambda: tombstones(log).get("a loser") == "reaped", "its claim is reaped")
    assert again.number("attempt") == 2


def test_a_checkpoint_grows_beside_an_open_claim(kafka: Kafka, sender: Sender, reaping: Callable[[str], Core]) -> None:
    """Its offset stays at the claim; what later owners have claimed is saved all the same."""
    [(_, _, at)] = sender.send_all([claim(0, 1).encode()], PATIENCE_S)
    reader = kafka.group_reader(REAPER_GROUP)

    def saved() -> str:
        [found] = reader.committed([TopicPartition(kafka.topic(JOURNAL[0]), JOURNAL[1])], timeout=10)
        return found.metadata if found.offset == at and found.metadata else ClaimedRanges().encode(0, ())

    with cores(reaping("first")):
        wait_for(lambda: ClaimedRanges.decode(saved()).is_void(Source("tasks.normal", 0, 0), Ownership(0, 1)), "saved")
        settle(sender, range(1, 3), 9)
        wait_for(lambda: ClaimedRanges.decode(saved()).is_void(Source("tasks.normal", 0, 1), Ownership(8, 1)), "grown")


@pytest.mark.parametrize("offset", [1, 1000], ids=["without ranges", "behind the journal's end"])
def test_a_checkpoint_that_no_reaper_can_have_saved_is_not_used(
    settings: Settings, kafka: Kafka, sender: Sender, reaping: Callable[[str], Core], offset: int
) -> None:
    """A person has set the group's offsets, or the journal was made anew."""
    log, lost = Log(settings), claim(0, 1, "the boot that dies")
    commit(kafka, INTAKE_GROUP, ("tasks.normal", 0), 10)
    sender.send_all([lost.encode()], PATIENCE_S)
    settle(sender, range(1, 5), 1)
    commit(kafka, REAPER_GROUP, JOURNAL, offset)
    kill(sender, "the boot that dies")
    with cores(reaping("first")):
        [again] = log.wait("tasks.high", 1)
    assert again.key == lost.tasks[0].id.encode()
