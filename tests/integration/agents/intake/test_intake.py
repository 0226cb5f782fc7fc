"""The intake on a real broker: what is claimed, in which order, and how tasks end that cannot be claimed."""

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from agents.intake.ready_queue import PAUSE_RECORDS
from headrace.contract.cluster import Cancel
from headrace.contract.outcome import Outcome
from headrace.contract.records import Outgoing
from headrace.kafka.groups import INTAKE_GROUP
from headrace.kafka.sender import Sender
from headrace.settings import Settings
from tests.rigs.core import Core, Log, cores, other, record, submission
from tests.rigs.topics import PARTITIONS


def test_a_task_is_claimed_committed_run_and_reported(kafka_settings: Settings, sender: Sender) -> None:
    log, core, task_id = Log(kafka_settings), Core(kafka_settings), str(uuid.uuid4())
    with cores(core):
        sender.send_all([record(task_id)])
        [job] = core.wait_jobs(1)
        [claim] = log.live_claims()
        assert claim == job.claim
        assert claim.tasks[0].id == task_id
        assert log.committed()["tasks.normal", job.task.source.partition] == job.task.source.offset + 1
        core.end(job)
        [outcome] = [Outcome.decode(r) for r in log.read("results")]
        assert (outcome.id, outcome.outcome, outcome.value, outcome.boot) == (
            task_id,
            "completed",
            b"ok",
            core.node.boot,
        )
        log.wait_no_claims()
        assert len(log.read("lifecycle.started")) == 1
        assert core.slots.used == 0


def test_no_more_is_claimed_than_slots_are_free(kafka_settings: Settings, sender: Sender) -> None:
    log, core = Log(kafka_settings), Core(kafka_settings, slots=2)
    sender.send_all(record() for _ in range(20))
    with cores(core):
        first = core.wait_jobs(2)
        assert len(log.live_claims()) == 2
        core.end(first[0])
        core.wait_jobs(3)
        while len(log.live_claims()) > 2:  # the first one's tombstone is on its way
            pass
        assert len(log.live_claims()) == 2


def test_a_backlog_larger_than_every_buffer_runs_once_each(kafka_settings: Settings, sender: Sender) -> None:
    core, count = Core(kafka_settings, slots=64), 3000
    sender.send_all(record() for _ in range(count))
    with cores(core):
        core.end_each()
        core.wait_jobs(count, 60)
    assert set(Counter(job.task.id for job in core.jobs).values()) == {1}


def test_a_partition_that_was_full_when_revoked_is_read_on_when_it_is_assigned_again(
    kafka_settings: Settings, sender: Sender, tmp_path: Path
) -> None:
    count, place = PAUSE_RECORDS + 200, ("tasks.normal", 0)
    core = Core(kafka_settings, slots=4)
    sender.send_all(record(partition=0) for _ in range(count))
    with cores(core):
        core.wait_jobs(4)
        until(lambda: core.intake._queue._partitions[place].paused)
        generation = member_generation(core)
        with cores(
            Core(other(kafka_settings, tmp_path / "other"))
        ):  # gets some partitions, then they are assigned back
            until(lambda: member_generation(core) > generation)
        until(lambda: place in core.intake.places)
        for job in core.wait_jobs(4):
            core.end(job)
        core.end_each()
        core.wait_jobs(count, 60)
    assert set(Counter(job.task.id for job in core.jobs).values()) == {1}


def member_generation(core: Core) -> int:
    membership = core.intake._consumer.membership
    return -1 if membership is None else membership[0]


def until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def outcome_of(log: Log, task_id: str) -> Outcome:
    return next(o for o in map(Outcome.decode, log.read("results")) if o.id == task_id)


REFUSED = {
    "garbage": (b"\xff\x00 not json", "invalid", "not JSON"),
    "no object": (b"[]", "invalid", "JSON object"),
    "a way out of the root": (submission(directory="../etc"), "invalid", "/directory"),
    "a payload that fails its schema": (submission(payload={"x": "text"}), "invalid", "/payload/x"),
    "one that is nested too deep": (
        submission(payload={"x": 1})[:-1] + b',"a":' + b"[" * 300 + b"]" * 300 + b"}",
        "invalid",
        "/a/0: ",
    ),
    "one that is nested beyond every parser": (b"[" * 100_000, "invalid", "levels deep"),
    "an integer that is too long": (
        b'{"name": "work", "payload": {"x": ' + b"9" * 5000 + b"}}",
        "invalid",
        "/payload/x: ",
    ),
    "a number that is none": (b'{"name": "work", "payload": {"x": NaN}}', "invalid", "not JSON"),
    "a repeated key": (b'{"name": "work", "name": "work"}', "invalid", "'name' appears twice"),
    "a long value that fails its schema": (submission(payload={"x": "é" * 400_000}), "invalid", '/payload/x: "éé'),
    "an unknown field": (submission()[:-1] + b',"timeout":5}', "invalid", "/timeout: unknown field"),
    "an unknown kind": (submission("nobody-has-it"), "unknown-kind", "there are work"),
    "one that has expired": (submission(expires_at="2020-01-01T00:00:00Z"), "expired", "2020-01-01"),
}


def test_refused_tasks_end_at_once_although_every_slot_is_busy(kafka_settings: Settings, sender: Sender) -> None:
    log, core = Log(kafka_settings), Core(kafka_settings, slots=1)
    with cores(core):
        sender.send_all([record()])
        core.wait_jobs(1)
        ids = {what: str(uuid.uuid4()) for what in REFUSED}
        sender.send_all(record(ids[what], value) for what, (value, _, _) in REFUSED.items())
        log.wait("results", len(REFUSED))
        for what, (value, reason, words) in REFUSED.items():
            outcome = outcome_of(log, ids[what])
            assert (outcome.outcome, outcome.reason, outcome.value) == ("failed", reason, value), what
            assert words in outcome.error
        core.end(core.jobs[0])
        sender.send_all([record()])
        core.wait_jobs(2)


def test_a_forged_replay_ends_as_invalid_and_stops_no_other_task(kafka_settings: Settings, sender: Sender) -> None:
    log, core, task_id = Log(kafka_settings), Core(kafka_settings), str(uuid.uuid4())
    with cores(core):
        forged = Outgoing("tasks.high", task_id.encode(), submission(), (("attempt", b"-1"), ("ledger", b"{")))
        sender.send_all([forged, record(topic="tasks.high")])
        core.wait_jobs(1)
        log.wait("results", 1)
        assert outcome_of(log, task_id).reason == "invalid"


def test_a_task_cancelled_while_it_waits_ends_although_every_slot_is_busy_and_never_starts(
    kafka_settings: Settings, sender: Sender
) -> None:
    log, core, task_id = Log(kafka_settings), Core(kafka_settings, slots=1), str(uuid.uuid4())
    with cores(core):
        sender.send_all([record()])
        [first] = core.wait_jobs(1)
        sender.send_all([record(task_id), Cancel(task_id).encode()])
        log.wait("results", 1)
        assert outcome_of(log, task_id).outcome == "cancelled"
        core.end(first)
        sender.send_all([record()])
        assert [j.task.id for j in core.wait_jobs(2)].count(task_id) == 0


def test_high_tasks_start_before_normal_ones_that_came_earlier(kafka_settings: Settings, sender: Sender) -> None:
    core = Core(kafka_settings, slots=1)
    with cores(core):
        sender.send_all([record()])
        [busy] = core.wait_jobs(1)
        sender.send_all(record() for _ in range(30))
        high = [record(topic="tasks.high") for _ in range(5)]
        sender.send_all(high)
        while len(core.intake._queue) < 35:
            pass
        core.end_each()
        core.end(busy)
        started = core.wait_jobs(36)[1:]
    assert {j.task.id.encode() for j in started[:5]} == {r.key for r in high}


def test_normal_tasks_start_in_their_order_across_partitions(kafka_settings: Settings, sender: Sender) -> None:
    core, sent = Core(kafka_settings, slots=1), [record() for _ in range(100)]
    for r in sent:
        sender.send_all([r])
    with cores(core):
        core.end_each()
        jobs = core.wait_jobs(100)
    times = [j.task.submitted_ms for j in jobs]
    assert times == sorted(times)


def test_a_second_node_stalls_nobody_and_reruns_nothing(
    kafka_settings: Settings, sender: Sender, tmp_path: Path
) -> None:
    first, second = Core(kafka_settings, "node-1"), Core(other(kafka_settings, tmp_path / "b"), "node-2")
    ids = [str(uuid.uuid4()) for _ in range(200)]
    with cores(first):
        sender.send_all(record(i) for i in ids[:100])
        running = first.wait_jobs(2)
        with cores(second):
            second.end_each()
            second.wait_jobs(1)
            while (membership := first.intake._consumer.membership) is None or membership[0] < 2:
                pass
            assert first.intake._consumer.stall_s < 1
            first.end_each()
            for job in running:
                first.end(job)
            sender.send_all(record(i) for i in ids[100:])
            while len(first.jobs) + len(second.jobs) < 200:
                pass
        left = time.monotonic()
        sender.send_all(record(partition=p) for p in range(PARTITIONS))
        first.wait_jobs(len(first.jobs) + PARTITIONS - sum(1 for j in first.jobs if j.task.id not in ids))
        assert time.monotonic() - left < 5  # after an orderly leave nobody waits for a session to end
    ran = Counter(j.task.id for j in first.jobs + second.jobs if j.task.id in ids)
    assert set(ran.values()) == {1}
    assert len(ran) == 200


def test_a_group_that_has_lost_its_offsets_stops_and_says_so(kafka_settings: Settings, sender: Sender) -> None:
    core = Core(kafka_settings)
    with cores(core):
        sender.send_all([record()])
        core.end(core.wait_jobs(1)[0])
    admin = core.kafka.admin()
    group = core.kafka.group(INTAKE_GROUP)
    admin.delete_consumer_groups([group])[group].result(10)
    again = Core(kafka_settings)
    failed = threading.Event()
    again.intake.on_failure = lambda _: failed.set()
    with cores(again):
        assert failed.wait(15)
        assert again.intake.failure is not None
        assert f"group {group} has lost its offsets" in again.intake.failure
        assert "--reset-offsets" in again.intake.failure
        assert again.intake.check() == again.intake.failure
        assert again.jobs == []


def test_a_new_group_begins_at_the_beginning_of_partitions_never_claimed_from(
    kafka_settings: Settings, sender: Sender
) -> None:
    ids = {str(uuid.uuid4()) for _ in range(8)}
    sender.send_all(record(i) for i in ids)
    core = Core(kafka_settings, slots=8)
    with cores(core):
        assert {j.task.id for j in core.wait_jobs(8)} == ids
        assert all(offset >= 0 for offset in Log(kafka_settings).committed().values())
