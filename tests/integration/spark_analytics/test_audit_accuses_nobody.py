"""What looks like a loss and is none: open and aborted transactions, markers in a compacted journal, an id in two
places, a redrive, and a reception that the log no longer holds."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition

from headrace.contract.ids import id_of_redrive
from headrace.contract.journal import Claim
from headrace.contract.lifecycle import received_event, started_event
from headrace.contract.outcome import Outcome
from headrace.contract.records import Outgoing, Source
from headrace.contract.task import Task
from headrace.kafka.client import Kafka
from headrace.kafka.partitioner import partition_of
from headrace.kafka.topic_growth import grow_topics
from headrace.kafka.trimming import delete_records
from headrace.settings import Settings
from spark_analytics.audit.auditor import Auditor
from spark_analytics.audit.projection import WINDOW_MS
from spark_analytics.audit.store import Audit
from spark_analytics.metrics import Metrics
from tests.rigs.lifecycle import Sends, flat, stories
from tests.rigs.topics import PARTITIONS

SETTLED_S = 0.3


class Kept:
    """Keeps no audits."""

    def save(self, audit: Audit) -> None:
        pass

    def counts_by_minute(self, first: int, last: int) -> dict[tuple[int, str], int]:
        return {}


@pytest.fixture
def send(kafka_settings: Settings, topics: str) -> Iterator[Sends]:
    found = Sends(kafka_settings)
    yield found
    found.close()


@pytest.fixture
def kafka(kafka_settings: Settings, topics: str) -> Kafka:
    return Kafka(kafka_settings, "audit")


@pytest.fixture
def auditor(kafka: Kafka, tmp_path: Path) -> Iterator[Auditor]:
    found = Auditor(kafka, Kept(), tmp_path, Metrics(), SETTLED_S)
    yield found
    found.stop()


@pytest.fixture
def producer(kafka: Kafka) -> Producer:
    found = Producer(kafka.producer_config(**{"transactional.id": kafka.topic("t")}))
    found.init_transactions(60)
    return found


def audits(auditor: Auditor, times: int = 4) -> Audit:
    """Runs more audits than a finding needs, each over settled events; returns the last."""
    for _ in range(times):
        time.sleep(SETTLED_S + 0.05)  # an audit judges settled events only
        audit = auditor.audit()
    return audit


def verdicts(audit: Audit) -> list[tuple[str, str]]:
    return [(f.id, f.verdict) for f in audit.findings]


def task(number: int, source: Source | None = None) -> Task:
    where = source or Source("tasks.normal", 0, number)
    return Task(f"{number:08x}-0000-4000-8000-000000000000", b"{}", attempt=1, source=where, submitted_ms=1)


def received(of: Task) -> Outgoing:
    return received_event(of, "prime", "demo", "kafka")


def completed(of: Task) -> Outgoing:
    outcome = Outcome(
        of.id,
        "completed",
        b"",
        attempt=1,
        boot="b",
        node="n",
        source=of.source,
        submitted_ms=of.submitted_ms,
        name="prime",
        directory="demo",
    )
    return outcome.completed_event("f", 1, "0" * 64)


def produce(producer: Producer, kafka: Kafka, record: Outgoing) -> None:
    place = {} if record.partition is None else {"partition": record.partition}
    producer.produce(kafka.topic(record.topic), record.value, record.key, headers=list(record.headers), **place)
    producer.flush(30)


@pytest.mark.parametrize("commits", [True, False])
def test_what_an_open_transaction_hides_is_not_lost(
    send: Sends, kafka: Kafka, producer: Producer, auditor: Auditor, commits: bool
) -> None:
    """A foreign producer's transaction on the topic of ends stands before the end of a task, and is then ended."""
    one = task(1)
    send([received(one), started_event(one, "prime", "demo", "n", "b")])
    producer.begin_transaction()
    produce(producer, kafka, replace(completed(one), key=one.id.encode(), value=b"foreign", headers=()))
    send([completed(one)])
    assert not audits(auditor).findings, "nobody can say whether it has ended"
    (producer.commit_transaction if commits else producer.abort_transaction)(60)
    audit = audits(auditor)
    assert not [v for _, v in verdicts(audit) if v == "lost"]
    assert audit.completed == 1


def test_what_an_open_transaction_hides_in_a_partition_that_the_queue_has_grown_by_is_not_lost(
    send: Sends, kafka: Kafka, producer: Producer, auditor: Auditor
) -> None:
    """The next attempt waits in another partition than the one in which the task's events are."""
    grow_topics(kafka.admin(), kafka.prefix, 2 * PARTITIONS)
    tasks = ((t, partition_of(t.id.encode(), 2 * PARTITIONS)) for t in map(task, range(1, 100)))
    one, partition = next(found for found in tasks if found[1] >= PARTITIONS)
    send([received(one), started_event(one, "prime", "demo", "n", "b")])
    producer.begin_transaction()
    produce(producer, kafka, Outgoing("tasks.high", b"foreign", b"foreign", (), partition))
    send([Outgoing("tasks.high", one.id.encode(), b"{}", (("attempt", b"2"),), partition)])
    assert not audits(auditor).findings, "nobody can say whether it waits"
    producer.abort_transaction(60)
    assert not audits(auditor).findings, "it waits"


def test_an_aborted_submission_and_the_aborted_records_about_it_never_were(
    send: Sends, kafka: Kafka, producer: Producer, auditor: Auditor
) -> None:
    one, two = task(1), task(2)
    send(flat(stories(20)))
    for topic_record in (Outgoing("tasks.normal", one.id.encode(), b"{}"), received(one), completed(two)):
        producer.begin_transaction()
        produce(producer, kafka, topic_record)
        producer.abort_transaction(60)
    audit = audits(auditor)
    assert (audit.received, audit.completed + audit.dead, audit.findings) == (20, 20, [])


def test_a_compacted_journal_with_markers_at_its_end_shows_what_runs(
    send: Sends, kafka: Kafka, producer: Producer, auditor: Auditor
) -> None:
    """The last offsets of the journal are a transaction's markers, and many before are compacted away."""
    running = task(1)
    claim = Claim((running,), by="b", for_="b", generation=1, node="n")
    ended = [Claim((task(n),), by="b", for_="b", generation=1, node="n") for n in range(2, 40)]
    send([received(running), claim.encode(), *(c.encode() for c in ended)])
    send([replace(c.encode(), value=None, headers=()) for c in ended])
    for _ in range(3):
        producer.begin_transaction()
        produce(producer, kafka, replace(claim.encode(), value=None, headers=()))
        producer.abort_transaction(60)
    audit = audits(auditor)
    assert (audit.running, audit.lost, audit.findings) == (1, 0, [])


def test_an_id_that_lies_in_two_partitions_has_its_end_looked_for_in_both(
    send: Sends, kafka: Kafka, auditor: Auditor
) -> None:
    """The topics have grown: its end lies where its key belongs, and a copy came to another partition much later."""
    one = task(1)
    send([received(one), completed(one)])
    assert audits(auditor, 1).completed == 1
    auditor._projection.forget_closed(int(time.time() * 1000) + 2 * WINDOW_MS)
    copy = replace(one, source=Source("tasks.normal", 1, 77))
    home = partition_now(kafka, one)
    send([replace(received(copy), partition=(home + 1) % 2)])
    audit = audits(auditor)
    assert not [v for _, v in verdicts(audit) if v == "lost"], verdicts(audit)
    assert audit.lost == 0


def partition_now(kafka: Kafka, of: Task) -> int:
    """Where the task's records lie."""
    consumer = kafka.consumer()
    try:
        for p in (
            consumer.list_topics(kafka.topic("lifecycle.received"), timeout=10)
            .topics[kafka.topic("lifecycle.received")]
            .partitions
        ):
            low, high = consumer.get_watermark_offsets(TopicPartition(kafka.topic("lifecycle.received"), p), timeout=10)
            if high > low:
                return p
    finally:
        consumer.close()
    raise AssertionError("it was not received")


def test_a_redriven_task_is_another_one(send: Sends, auditor: Auditor) -> None:
    dead = task(1)
    again = replace(dead, id=id_of_redrive(dead.id, 1))
    end = Outcome(
        dead.id,
        "failed",
        b"{}",
        attempt=1,
        boot="b",
        node="n",
        source=dead.source,
        submitted_ms=1,
        name="prime",
        directory="demo",
    )
    send([received(dead), end.dead_letter(), received(again), completed(again)])
    audit = audits(auditor)
    assert (audit.received, audit.completed, audit.dead, audit.findings) == (2, 1, 1, [])


def test_an_end_whose_reception_is_trimmed_accuses_nobody(send: Sends, kafka: Kafka, auditor: Auditor) -> None:
    """The audit begins, or begins again, over a log of which a person has cut off the beginning."""
    old = task(1)
    send([received(old)])
    at = partition_now(kafka, old)
    delete_records(kafka, kafka.admin(), {("lifecycle.received", at): 1})
    later = task(2)
    send([replace(received(later), partition=at), completed(later), completed(old)])
    audit = audits(auditor)
    assert (verdicts(audit), audit.received, audit.completed) == ([], 1, 1)
