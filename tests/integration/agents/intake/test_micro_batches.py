"""Micro-batches on a real broker: tiny tasks are claimed many at a time, and each is still an attempt of its own."""

import uuid
from collections import Counter

from headrace.contract.lifecycle import Event
from headrace.contract.outcome import Outcome
from headrace.contract.states import Cause
from headrace.kafka.sender import Sender
from headrace.settings import Settings
from tests.rigs.core import Core, Log, cores, record

COUNT = 200


def test_one_claim_for_each_partition_holds_all_jobs_of_a_slot(kafka_settings: Settings, sender: Sender) -> None:
    log, core = Log(kafka_settings), Core(kafka_settings, slots=1, tiny=["work"])
    ids = [str(uuid.uuid4()) for _ in range(COUNT)]
    sender.send_all(map(record, ids))
    with cores(core):
        core.wait_jobs(1)
        [group] = core.groups
        claims = {id(job.claim): job.claim for job in group}.values()
        assert len(group) > len(claims)
        assert len(claims) <= 4  # partitions
        assert sorted(t.id for c in log.live_claims() for t in c.tasks) == sorted(job.task.id for job in group)
        for claim in claims:
            offsets = [t.source.offset for t in claim.tasks]
            assert offsets == sorted(offsets)
            place = claim.tasks[0].source
            assert log.committed()[place.topic, place.partition] == offsets[-1] + 1
        times = [job.task.submitted_ms for job in group]
        assert times == sorted(times)
        core.end_each()
        for job in group:
            core.end_soon(job)
        core.wait_jobs(COUNT)
        outcomes = [Outcome.decode(r) for r in log.wait("results", COUNT)]
        log.wait_no_claims()
    assert Counter(o.id for o in outcomes) == Counter(ids)
    assert Counter(Event.decode(r).id for r in log.read("lifecycle.started")) == Counter(ids)
    assert core.slots.used == 0


def test_the_claim_stays_until_its_last_member_has_ended(kafka_settings: Settings, sender: Sender) -> None:
    log, core = Log(kafka_settings), Core(kafka_settings, slots=1, tiny=["work"])
    sender.send_all(record(partition=0) for _ in range(3))
    with cores(core):
        core.wait_jobs(3)
        [group, *_] = core.groups
        for job in group[:-1]:
            core.end(job)
        assert len(log.live_claims()) == 1
        core.end(group[-1])
        core.end_each()
        log.wait_no_claims()


def test_a_member_that_fails_is_sent_again_alone(kafka_settings: Settings, sender: Sender) -> None:
    log, core = Log(kafka_settings), Core(kafka_settings, slots=1, tiny=["work"])
    sender.send_all(record(partition=0) for _ in range(20))
    with cores(core):
        core.wait_jobs(1)
        [group] = core.groups[:1]
        core.end(group[0], cause=Cause.PROCESS_DEATH, detail="killed by SIGKILL")
        core.end_each()
        for job in group[1:]:
            core.end_soon(job)
        core.wait_jobs(21)
        log.wait_no_claims()
    replays = [g for g in core.groups if any(job.task.attempt == 2 for job in g)]
    assert [[(job.task.id, job.task.attempt) for job in g] for g in replays] == [[(group[0].task.id, 2)]]
