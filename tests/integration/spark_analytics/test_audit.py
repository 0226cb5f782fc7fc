"""The conservation audit over a real Kafka: it finds hidden and repeated events, and no task that only waits."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.contract.journal import Claim
from headrace.contract.lifecycle import received_event, started_event
from headrace.contract.outcome import Outcome
from headrace.contract.records import Outgoing, Source
from headrace.contract.task import Task
from headrace.kafka.client import Kafka
from headrace.kafka.groups import INTAKE_GROUP
from headrace.settings import Settings
from headrace.storage.mysql import Database
from spark_analytics.audit.auditor import Auditor
from spark_analytics.audit.projection import WINDOW_MS
from spark_analytics.audit.store import Audit, MySqlAuditStore
from spark_analytics.metrics import Metrics
from spark_analytics.migrate import migrate
from tests.rigs.lifecycle import Sends, flat, rows, stories

SETTLED_S = 0.3


@pytest.fixture
def send(kafka_settings: Settings, topics: str) -> Iterator[Sends]:
    found = Sends(kafka_settings)
    yield found
    found.close()


@pytest.fixture
def auditor(kafka_settings: Settings, topics: str, database: Database, tmp_path: Path) -> Iterator[Auditor]:
    migrate(database)
    found = Auditor(Kafka(kafka_settings, "audit"), MySqlAuditStore(database), tmp_path, Metrics(), SETTLED_S)
    yield found
    found.stop()


def audits(auditor: Auditor, times: int = 3) -> Audit:
    """Runs as many audits as a finding needs, each over settled events; returns the last."""
    for _ in range(times):
        time.sleep(SETTLED_S + 0.05)  # an audit judges settled events only
        audit = auditor.audit()
    return audit


def named(database: Database) -> set[tuple[str, ...]]:
    return set(rows(database, "SELECT id, verdict, event FROM audit_findings WHERE resolved_at IS NULL"))


def key(record: Outgoing) -> str:
    return (record.key or b"").decode()


def task(number: int, topic: str = "tasks.normal") -> Task:
    return Task(
        f"{number:08x}-0000-4000-8000-000000000000", b"{}", attempt=1, source=Source(topic, 0, number), submitted_ms=1
    )


def test_a_healthy_run_has_no_findings(send: Sends, auditor: Auditor, database: Database) -> None:
    told = stories(200)
    send(flat(told))
    audit = audits(auditor)
    assert not audit.findings
    assert named(database) == set()
    assert (audit.received, audit.completed + audit.dead, audit.running, audit.queued) == (200, 200, 0, 0)
    assert rows(database, "SELECT MAX(lost), MAX(repeated) FROM audits") == [(0, 0)]


def test_a_hidden_completion_and_a_repeated_one_are_both_found(
    send: Sends, auditor: Auditor, database: Database
) -> None:
    told = [s for s in stories(100, attempts=False) if s[-1].topic == "lifecycle.completed"]
    hidden, repeated = told[3], told[5]
    send(flat([s for s in told if s is not hidden]))
    send(hidden[:-1])
    send(repeated[-1:])
    audit = audits(auditor)
    assert named(database) == {
        (key(hidden[0]), "lost", "completed"),
        (key(repeated[0]), "repeated", "completed"),
    }
    assert audit.received == audit.completed + audit.dead + audit.running + audit.queued + 1

    send(hidden[-1:])  # it arrives late
    audits(auditor, 1)
    assert named(database) == {(key(repeated[0]), "repeated", "completed")}


def test_a_task_that_waits_runs_or_is_being_stored_is_not_lost(
    send: Sends, auditor: Auditor, database: Database, kafka_settings: Settings
) -> None:
    waiting = "11111111-0000-4000-8000-000000000000"
    again, running, stored = task(91), task(92), task(93)
    kafka = Kafka(kafka_settings, "test")
    send([Outgoing("tasks.normal", waiting.encode(), b"{}", partition=0)])
    send(
        [
            received_event(
                Task(waiting, b"{}", attempt=1, source=Source("tasks.normal", 0, 0), submitted_ms=1),
                "prime",
                "demo",
                "kafka",
            )
        ]
    )
    send([received_event(t, "prime", "demo", "http") for t in (again, running, stored)])
    send([Outgoing("tasks.high", again.id.encode(), b"{}")])
    send([Claim((running,), by="boot", for_="boot", generation=1, node="node").encode()])
    send(
        [
            Outcome(
                stored.id,
                "completed",
                b"r",
                attempt=1,
                boot="boot",
                node="node",
                source=stored.source,
                submitted_ms=1,
                name="prime",
                directory="demo",
            ).encode()
        ]
    )
    audit = audits(auditor)
    assert not audit.findings
    assert (audit.received, audit.running, audit.queued) == (4, 1, 3)

    # Taken from the queue, with its claim ended and without an outcome: now it is lost.
    consumer = kafka.consumer(INTAKE_GROUP)
    from confluent_kafka import TopicPartition

    consumer.commit(offsets=[TopicPartition(kafka.topic("tasks.normal"), 0, 1)], asynchronous=False)
    consumer.close()
    send([Claim((running,), by="boot", for_="boot", generation=1, node="node").tombstone("done")])
    audits(auditor)
    assert {(i, v) for i, v, _ in named(database)} == {(waiting, "lost"), (running.id, "lost")}


def test_repeats_of_every_event_are_found_and_attempts_are_not_repeats(
    send: Sends, auditor: Auditor, database: Database
) -> None:
    one = task(1)
    second = Task(one.id, b"{}", attempt=2, source=one.source, submitted_ms=1)
    begun = started_event(one, "prime", "demo", "n", "b")
    send([received_event(one, "prime", "demo", "http"), begun, started_event(second, "prime", "demo", "n", "b"), begun])
    send([received_event(one, "prime", "demo", "http")])
    ended = Outcome(
        one.id,
        "completed",
        b"",
        attempt=2,
        boot="b",
        node="n",
        source=one.source,
        submitted_ms=1,
        name="prime",
        directory="demo",
    )
    send([ended.completed_event("f", 1, "0" * 64), ended.dead_letter()])
    audits(auditor, 1)
    assert named(database) == {(one.id, "repeated", e) for e in ("started", "received", "dead")}


def test_the_count_of_repeats_stays_with_their_list(send: Sends, auditor: Auditor, database: Database) -> None:
    """The list shows what any audit has found: a count of the last audit alone would say 0 beside it."""
    one, two = task(1), task(2)
    records = [received_event(t, "prime", "demo", "http") for t in (one, two)]
    ends = [outcome(t, attempt=1).completed_event("f", 1, "0" * 64) for t in (one, two)]
    send([*records, *records, *ends, ends[0]])
    for _ in range(3):
        audits(auditor, 1)
        [last] = rows(database, "SELECT lost, repeated FROM audits ORDER BY at DESC LIMIT 1")
        assert last == (0, 2)
        listed = {i for i, verdict, _ in named(database) if verdict == "repeated"}
        assert listed == {one.id, two.id}


def test_the_count_of_lost_tasks_is_that_of_the_equation(send: Sends, auditor: Auditor, database: Database) -> None:
    """A task that was never received is a fault too, and is not missing from received = completed + …"""
    lost, unreceived = task(1), task(2)
    send([received_event(lost, "prime", "demo", "http"), outcome(unreceived, 1).completed_event("f", 1, "0" * 64)])
    audit = audits(auditor)
    assert {(i, v) for i, v, _ in named(database)} == {(lost.id, "lost"), (unreceived.id, "unreceived")}
    assert rows(database, "SELECT lost FROM audits ORDER BY at DESC LIMIT 1") == [(1,)]
    assert (audit.lost, audit.queued, audit.running) == (1, 0, 0)


def test_more_findings_than_an_audit_saves_are_all_reported(
    send: Sends, auditor: Auditor, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spark_analytics.audit.auditor._MOST_FINDINGS", 2)
    repeated, lost = [task(n) for n in range(5)], [task(n) for n in range(10, 15)]
    records = [received_event(t, "prime", "demo", "http") for t in repeated]
    send([*records, *records, *(received_event(t, "prime", "demo", "http") for t in lost)])
    send([outcome(t, 1).completed_event("f", 1, "0" * 64) for t in repeated])
    audit = audits(auditor, 4)
    assert {i for i, verdict, _ in named(database) if verdict == "repeated"} == {t.id for t in repeated}
    assert len([i for i, verdict, _ in named(database) if verdict == "lost"]) == 2
    assert audit.lost == 5
    assert audit.received == audit.completed + audit.dead + audit.running + audit.queued + audit.lost


def copy_of(first: Task, partition: int, offset: int) -> Task:
    """Another record with the same id."""
    return replace(first, source=Source("tasks.normal", partition, offset))


@pytest.mark.parametrize("started_first", [False, True])
def test_an_id_that_was_submitted_twice_is_noted_and_is_no_fault(
    send: Sends, auditor: Auditor, database: Database, started_first: bool
) -> None:
    one, alone = task(1), task(2)
    other = copy_of(one, 3, 17)
    received = [received_event(t, "prime", "demo", "kafka") for t in (one, other)]
    started = [started_event(t, "prime", "demo", "n", "b") for t in (other, one)]
    records = [*started, *received] if started_first else [*received, *started]
    for record in records:  # one at a time: topics have no order among each other
        send([record])
        auditor._read_to_ends()
    ended = outcome(one, attempt=1)
    send([ended.completed_event("f", 1, "0" * 64), received_event(alone, "prime", "demo", "http")])
    send([outcome(alone, attempt=1).completed_event("g", 1, "0" * 64)])
    audit = audits(auditor)
    assert named(database) == {(one.id, "resubmitted", "received")}
    [(detail,)] = rows(database, "SELECT detail FROM audit_findings")
    assert detail.startswith("submitted 2 times (tasks.normal/0/1, tasks.normal/3/17)")
    assert (audit.received, audit.completed, audit.running, audit.queued) == (2, 2, 0, 0)
    assert rows(database, "SELECT MAX(lost), MAX(repeated) FROM audits") == [(0, 0)]

    send([received[1]])  # the same record announced again is a repeat, whatever else happened to the id
    audits(auditor, 1)
    assert (one.id, "repeated", "received") in named(database)


def test_a_copy_that_comes_when_its_task_is_long_forgotten_is_noted(
    send: Sends, auditor: Auditor, database: Database
) -> None:
    one, again = task(1), task(2)
    send([received_event(t, "prime", "demo", "kafka") for t in (one, again)])
    send([outcome(t, attempt=1).completed_event("f", 1, "0" * 64) for t in (one, again)])
    audits(auditor, 1)
    auditor._projection.forget_closed(int(time.time() * 1000) + 2 * WINDOW_MS)
    send([received_event(copy_of(one, 3, 17), "prime", "demo", "kafka")])
    send([received_event(again, "prime", "demo", "kafka")])
    audit = audits(auditor)
    assert named(database) == {(one.id, "resubmitted", "received"), (again.id, "repeated", "received")}
    assert (audit.received, audit.completed) == (2, 2)


def test_starts_of_tasks_that_are_long_forgotten_are_not_kept(
    send: Sends, auditor: Auditor, database: Database
) -> None:
    again, copied = task(1), task(2)
    send([received_event(t, "prime", "demo", "kafka") for t in (again, copied)])
    send([outcome(t, attempt=1).completed_event("f", 1, "0" * 64) for t in (again, copied)])
    audits(auditor, 1)
    auditor._projection.forget_closed(int(time.time() * 1000) + 2 * WINDOW_MS)
    second = replace(again, attempt=2)  # in vain, as after a node that died between outcome and tombstone
    send([started_event(t, "prime", "demo", "n", "b") for t in (second, copy_of(copied, 3, 17))])
    audits(auditor)
    assert named(database) == {(copied.id, "resubmitted", "received")}
    assert not auditor._projection.find_only_started()


def test_a_forged_record_on_the_high_queue_does_not_end_the_audit(
    send: Sends, auditor: Auditor, database: Database
) -> None:
    waiting = task(1)
    send([received_event(waiting, "prime", "demo", "kafka"), Outgoing("tasks.high", b"x", b"{}", (("attempt", b"-"),))])
    audits(auditor)
    assert named(database) == {(waiting.id, "lost", "completed")}


def outcome(of: Task, attempt: int) -> Outcome:
    return Outcome(
        of.id,
        "completed",
        b"",
        attempt=attempt,
        boot="b",
        node="n",
        source=of.source,
        submitted_ms=1,
        name="prime",
        directory="demo",
    )


def test_an_ended_task_that_was_never_received_is_found(send: Sends, auditor: Auditor, database: Database) -> None:
    one = task(2)
    ended = Outcome(
        one.id,
        "completed",
        b"",
        attempt=1,
        boot="b",
        node="n",
        source=one.source,
        submitted_ms=1,
        name="prime",
        directory="demo",
    )
    send([ended.completed_event("f", 1, "0" * 64)])
    audits(auditor)
    assert named(database) == {(one.id, "unreceived", "received")}


def test_an_audit_that_was_killed_goes_on_where_it_stopped(
    send: Sends, kafka_settings: Settings, topics: str, database: Database, tmp_path: Path
) -> None:
    migrate(database)
    told = stories(50)
    totals = []
    for part in (told[:25], told[25:]):
        send(flat(part))
        auditor = Auditor(Kafka(kafka_settings, "audit"), MySqlAuditStore(database), tmp_path, Metrics(), SETTLED_S)
        totals.append(audits(auditor, 1))
        auditor.stop()
    assert [(a.received, a.completed + a.dead) for a in totals] == [(25, 25), (50, 50)]
    assert not totals[-1].findings


def test_tables_that_differ_from_the_log_are_reported(
    send: Sends, kafka_settings: Settings, topics: str, database: Database, tmp_path: Path
) -> None:
    migrate(database)
    now = time.time()
    auditor = Auditor(
        Kafka(kafka_settings, "audit"), MySqlAuditStore(database), tmp_path, Metrics(), SETTLED_S, lambda: now + 120
    )
    connection = database.connect()
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO counts_minute VALUES (UTC_TIMESTAMP() - INTERVAL 3 MINUTE, 'received', '', 'p', '', 1, 0, 0)"
        )
    connection.commit()
    connection.close()
    assert auditor.audit().tables_agree is False
    auditor.stop()
