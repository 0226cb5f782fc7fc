"""Trimming: only records that nobody needs are deleted from the task topics, whatever dies at which moment."""

import threading
import time
import uuid
from dataclasses import replace

import pytest
from confluent_kafka import TopicPartition

from agents.intake.cancellations import Cancellations
from agents.recovery.journal_state import LiveClaim
from agents.recovery.trimmer import trim_age_s, trim_offsets
from headrace.contract.cluster import Cancel
from headrace.contract.outcome import Outcome
from headrace.contract.ownership import Ownership
from headrace.contract.records import Source
from headrace.kafka.client import Kafka
from headrace.kafka.groups import RECEIVER_GROUP
from headrace.kafka.reading import first_offsets
from headrace.kafka.sender import Sender
from headrace.kafka.trimming import delete_records
from headrace.settings import Settings
from tests.faults.processes.victim import Victim
from tests.rigs.core import Core, Log, cores, record
from tests.rigs.storekeeper import wait_for
from tests.rigs.topics import PARTITIONS, grow

NORMAL = ("tasks.normal", 0)
KEPT = 2  # commands of each partition that stay, a thousand elsewhere


@pytest.fixture
def settings(kafka_settings: Settings, topics: str) -> Settings:
    """Without a minimum age for records to be trimmed."""
    return replace(kafka_settings, keep_s=0.0)


def commit_receiver(settings: Settings, offset: int, partition: int = NORMAL[1]) -> None:
    """Commits for the receiver: it has announced everything before that offset of the partition."""
    kafka = Kafka(settings, "test")
    consumer = kafka.consumer(RECEIVER_GROUP)
    consumer.commit(offsets=[TopicPartition(kafka.topic(NORMAL[0]), partition, offset)], asynchronous=False)
    consumer.close()


def log_start(settings: Settings) -> int:
    """The first offset of `NORMAL` now."""
    kafka = Kafka(settings, "test")
    return first_offsets(kafka, kafka.admin(), [NORMAL])[NORMAL]


class Passes:
    """A failpoint that counts the trimmer's passes; `next` returns when it has been at all 4 partitions once more."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition()

    def __call__(self, point: str) -> None:
        if point == "trimmer between committed offset and journal":
            with self._changed:
                self._count += 1
                self._changed.notify_all()

    def next(self) -> None:
        with self._changed:
            wanted = self._count + 6  # one may be under way; then a whole round, and its last deletion is done
            assert self._changed.wait_for(lambda: self._count >= wanted, 60)


def test_only_what_both_groups_have_committed_and_no_claim_holds_is_trimmed(settings: Settings, sender: Sender) -> None:
    passes = Passes()
    core = Core(settings, failpoint=passes)
    sender.send_all([record(partition=0) for _ in range(5)])
    with cores(core):
        for job in core.wait_jobs(2, 60):
            core.end(job)
        core.wait_jobs(4, 60)
        passes.next()
        assert log_start(settings) == 0, "the receiver has announced none"
        commit_receiver(settings, 1)
        passes.next()
        assert log_start(settings) == 1, "the receiver has announced one"
        commit_receiver(settings, 5)
        core.end(core.jobs[3])
        core.wait_jobs(5, 60)
        passes.next()
        assert log_start(settings) == 2, "all are committed, and the third still runs"
    assert core.count("trimmed_records") == 2


def control_start(settings: Settings, partition: int) -> int:
    kafka = Kafka(settings, "test")
    place = ("tasks.control", partition)
    return first_offsets(kafka, kafka.admin(), [place])[place]


@pytest.mark.parametrize("partition", [0, PARTITIONS], ids=["its partition", "a grown queue"])
def test_a_cancel_stays_until_what_was_queued_before_it_is_settled_and_a_new_node_reads_no_more(
    settings: Settings, sender: Sender, partition: int
) -> None:
    for topic in ("tasks.running", "tasks.high", "tasks.normal") if partition else ():
        grow(Kafka(settings, "test"), topic, 2 * PARTITIONS)
    passes, tasks = Passes(), [str(uuid.uuid4()) for _ in range(3)]
    core = Core(settings, failpoint=passes)
    core.trimmer._keep_commands = KEPT
    sender.send_all([record(i, partition=partition) for i in tasks])
    commands = [replace(Cancel(str(uuid.uuid4())).encode(), partition=0) for _ in range(20)]
    sender.send_all(commands)
    with cores(core):
        commit_receiver(settings, 3, partition)
        for job in core.wait_jobs(2, 60):
            core.end(job)
        core.wait_jobs(3, 60)
        passes.next()
        passes.next()
        assert control_start(settings, 0) == 0, "a task still runs that one of them may be for"
        core.end(core.jobs[2])
        wait_for(lambda: control_start(settings, 0) == 20 - KEPT, "all is settled")
        sender.send_all(commands[-1:])
        wait_for(lambda: control_start(settings, 0) == 21 - KEPT, "commands that come later go too")
    new = Cancellations(Kafka(settings, "test"), settings.data / "new-node.db")
    new.start()
    try:
        assert new.wait_caught_up(60)
        assert [new.is_cancelled((c.key or b"").decode()) for c in commands] == [False] * 19 + [True]
        assert new.check() is None
        assert not new.notes()
    finally:
        new.close()


def test_a_node_that_was_away_while_the_control_log_was_trimmed_misses_nothing_and_forgets_what_is_settled(
    settings: Settings, sender: Sender
) -> None:
    kafka, file = Kafka(settings, "test"), settings.data / "away.db"
    first, second, third = (replace(Cancel(str(uuid.uuid4())).encode(), partition=0) for _ in range(3))

    def known() -> list[bool]:
        cancellations = Cancellations(kafka, file)
        cancellations.start()
        try:
            assert cancellations.wait_caught_up(60)
            assert not cancellations.notes(), "what is trimmed is settled"
            return [cancellations.is_cancelled((c.key or b"").decode()) for c in (first, second, third)]
        finally:
            cancellations.close()

    sender.send_all([first])
    assert known() == [True, False, False]
    sender.send_all([second])
    sender.send_all([third])
    delete_records(kafka, kafka.admin(), {("tasks.control", 0): 2})
    assert known() == [False, False, True]


def test_commands_stay_as_long_as_a_task_of_their_time_however_old() -> None:
    """In units of `keep_s`. The oldest unsettled task has the age that is given."""
    for oldest, age in [(0.0, 1), (0.4, 1), (0.9, 2), (1.5, 4), (3.0, 8), (60.0, 128), (64.0, None), (1000.0, None)]:
        assert trim_age_s(1.0, lambda older_than, oldest=oldest: oldest < older_than) == age  # type: ignore[misc]


# failpoint of the kill -> how many records may be gone by then
CRASHES = {"before commit": 0, "after commit": 0, "trimmer before deleting": 0}


@pytest.mark.parametrize("place", CRASHES)
def test_a_node_killed_there_has_trimmed_nothing_that_is_needed(place: str, settings: Settings, sender: Sender) -> None:
    ids, log = [str(uuid.uuid4()) for _ in range(3)], Log(settings)
    commit_receiver(settings, len(ids))
    with Victim(settings, attempts="complete", failpoints={place: ("kill", 1)}) as victim:
        victim.wait("ready")
        sender.send_all([record(i, partition=0) for i in ids])
        victim.wait(f"at {place}", 60)
        victim.wait_end()
    assert log_start(settings) <= CRASHES[place]
    core = Core(settings)
    core.end_each()
    with cores(core):
        while {Outcome.decode(r).id for r in log.wait("results", len(ids), 60)} != set(ids):
            pass  # one that ran in vain may come first
        log.wait_no_claims(60)
        deadline = time.monotonic() + 60
        while log_start(settings) < len(ids):
            assert time.monotonic() < deadline, "ended tasks are trimmed in the end"


def test_records_that_are_young_claimed_or_not_committed_stay() -> None:
    claim = LiveClaim("k", "boot", Ownership(0, 1), (Source("tasks.normal", 0, 7),), 0, 0)
    high = ("tasks.high", 0)
    assert trim_offsets({NORMAL: 9, high: 5}, [], {}) == {NORMAL: 9, high: 5}
    assert trim_offsets({NORMAL: 9, high: 5}, [claim], {}) == {NORMAL: 7, high: 5}
    assert trim_offsets({NORMAL: 9, high: 5}, [claim], {NORMAL: 3, high: 6}) == {NORMAL: 3, high: 5}
    assert trim_offsets({NORMAL: -1001, high: 0}, [], {}) == {NORMAL: 0, high: 0}
