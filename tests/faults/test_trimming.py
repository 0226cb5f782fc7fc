"""Trimming: only records that nobody needs are deleted from the task topics, whatever dies at which moment."""

import threading
import time
import uuid
from dataclasses import replace

import pytest
from confluent_kafka import TopicPartition

from agents.recovery.journal_state import LiveClaim
from agents.recovery.trimmer import trim_offsets
from headrace.contract.outcome import Outcome
from headrace.contract.ownership import Ownership
from headrace.contract.records import Source
from headrace.kafka.client import Kafka
from headrace.kafka.groups import RECEIVER_GROUP
from headrace.kafka.reading import first_offsets
from headrace.kafka.sender import Sender
from headrace.settings import Settings
from tests.faults.processes.victim import Victim
from tests.rigs.core import Core, Log, cores, record

NORMAL = ("tasks.normal", 0)


@pytest.fixture
def settings(kafka_settings: Settings, topics: str) -> Settings:
    """Without a minimum age for records to be trimmed."""
    return replace(kafka_settings, keep_s=0.0)


def commit_receiver(settings: Settings, offset: int) -> None:
    """Commits for the receiver: it has announced everything before that offset of `NORMAL`."""
    kafka = Kafka(settings, "test")
    consumer = kafka.consumer(RECEIVER_GROUP)
    consumer.commit(offsets=[TopicPartition(kafka.topic(NORMAL[0]), NORMAL[1], offset)], asynchronous=False)
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
