"""One id spelt in several ways, or sent by several partitioners, lies in several partitions: all run, one ends it.

Rule D holds per partition, so no node can see the other record. The storekeeper decides by the canonical id, in that
id's partition of `results`: one result, one terminal event (I1, I2), and the counts agree in distinct ids (I6).
"""

import random
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from confluent_kafka import Producer

from headrace.client import read_events, tls_context
from headrace.kafka.partitioner import partition_of
from headrace.storage.mysql import Database
from infra.chaos.conservation import InjectedFault
from infra.chaos.evidence import Evidence, EvidenceReader
from infra.chaos.faults import FAULTS
from infra.chaos.installation import Installation
from infra.chaos.listener import Listener
from infra.chaos.schedule import check_conservation, wait_quiet
from infra.chaos.workloads import Submitted
from spark_analytics.audit.auditor import Auditor
from spark_analytics.audit.store import MySqlAuditStore
from spark_analytics.metrics import Metrics
from spark_analytics.migrate import migrate
from tests.rigs.core import Log
from tests.rigs.lifecycle import rows

PARTITIONS = 4  # of the product's topics
PATIENCE_S = 90.0
SETTLED_S = 0.3

_BODIES: tuple[dict[str, Any], ...] = (
    {"name": "prime", "payload": {"upper_bound": 100}},
    {"name": "fragile", "payload": {"how": "raise", "attempts": 1}},  # fails once
    {"name": "fragile", "payload": {"how": "raise", "attempts": 100}, "max_attempts": 2},  # never completes
    {"name": "fragile", "payload": {"attempts": 0, "seconds": 1.0}},  # runs while its copy does
    {"name": "many_bytes", "payload": {"size": 3_000_000}},  # a result in several records
)
_DEAD = _BODIES[2]


class Producers:
    """Kafka's two usual partitioners: librdkafka's own default, and Java's."""

    def __init__(self, at: Installation) -> None:
        servers, self._topic = at.settings.kafka, at.settings.topic_prefix + "tasks.normal"
        self._murmur2 = Producer({"bootstrap.servers": servers, "partitioner": "murmur2_random"})
        self._default = Producer({"bootstrap.servers": servers, "partitioner": "consistent_random"})
        self.places: dict[str, set[str]] = {}  # id -> where its records lie

    def send(self, task_id: str, spelt: str, body: dict[str, Any], default: bool = False) -> None:
        def answered(error: Any, message: Any) -> None:
            assert error is None, error
            places = self.places.setdefault(task_id, set())
            places.add(f"tasks.normal/{message.partition()}/{message.offset()}")

        value = orjson.dumps(body | {"directory": "copies"})
        producer = self._default if default else self._murmur2
        producer.produce(self._topic, value, spelt.encode(), on_delivery=answered)

    def flush(self) -> None:
        for producer in (self._murmur2, self._default):
            assert producer.flush(30) == 0


@pytest.fixture
def producers(installation: Installation) -> Iterator[Producers]:
    found = Producers(installation)
    yield found
    found.flush()


def id_in_two_partitions() -> str:
    """An id whose upper case lies in another partition."""
    while True:
        task_id = str(uuid.uuid4())
        if partition_of(task_id.encode(), PARTITIONS) != partition_of(task_id.upper().encode(), PARTITIONS):
            return task_id


def planned(count: int) -> dict[str, dict[str, Any]]:
    """Ids, with what each submits."""
    return {id_in_two_partitions(): _BODIES[i % len(_BODIES)] for i in range(count)}


def submitted(ids: dict[str, dict[str, Any]]) -> Submitted:
    return Submitted(ids=set(ids), poison={i for i, body in ids.items() if body is _DEAD})


def wait_all_started(reader: EvidenceReader, producers: Producers) -> Evidence:
    """Returns when a first attempt has been announced for every record, and nothing runs any more."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        evidence = reader.read()
        missing = {i: places - first_starts(evidence, i) for i, places in producers.places.items()}
        if not any(missing.values()) and not evidence.claims:
            return evidence
        assert time.monotonic() < deadline, f"not started: {[m for m in missing.items() if m[1]][:3]}"
        time.sleep(0.1)


def first_starts(evidence: Evidence, task_id: str) -> set[str]:
    return {e.source for e in evidence.histories[task_id].started if e.attempt == 1}


def files_of(root: Path, task_id: str) -> list[Path]:
    return [f for f in root.glob("copies/*") if f.name.startswith(task_id)]


def events_of(url: str, spelt: str) -> list[str]:
    with (
        httpx.Client(timeout=30, verify=tls_context()) as client,
        client.stream("GET", f"{url}/tasks/{spelt}/events") as answer,
    ):
        assert answer.status_code == 200
        return [e.event for e in read_events(answer) if e.event != "progress"]


def check(at: Installation, ids: dict[str, dict[str, Any]], evidence: Evidence, *faults: InjectedFault) -> None:
    """I1 and I2, for the log, the disk and the readers of one task."""
    verdict = check_conservation(at, submitted(ids), evidence, faults)
    verdict.unknown.clear()  # other tests' tasks
    assert verdict.good, str(verdict)
    assert verdict.dead == sum(body is _DEAD for body in ids.values())
    for task_id, body in ids.items():
        end = "failed" if body is _DEAD else "completed"
        assert events_of(at.url, task_id.upper()) == ["received", "started", end]
        assert len(files_of(at.settings.results_root, task_id)) == (end == "completed")


def audited(at: Installation, database: Database, folder: Path, ids: dict[str, dict[str, Any]]) -> set[tuple[str, str]]:
    """(id, verdict) of what the audit says of these tasks."""
    migrate(database)
    auditor = Auditor(at.kafka, MySqlAuditStore(database), folder, Metrics(), SETTLED_S)
    try:
        for _ in range(3):
            time.sleep(SETTLED_S + 0.05)
            auditor.audit()
    finally:
        auditor.stop()
    found = rows(database, "SELECT id, verdict FROM audit_findings WHERE resolved_at IS NULL")
    return {(i, v) for i, v in found if i in ids}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("order", ["at the same time", "lower case first", "upper case first"])
def test_copies_in_two_partitions_have_one_result_and_one_end(
    installation: Installation, producers: Producers, database: Database, tmp_path: Path, order: str
) -> None:
    ids, reader = planned(15), EvidenceReader(installation.kafka)
    listener = Listener(*installation.urls).start()
    spellings = [str.upper, str.lower] if order == "upper case first" else [str.lower, str.upper]
    for spell in spellings:
        for task_id, body in ids.items():
            producers.send(task_id, spell(task_id), body)
        if order != "at the same time":
            producers.flush()
            wait_all_started(reader, producers)
    producers.flush()
    wait_all_started(reader, producers)
    evidence = wait_quiet(reader, set(ids))  # until the storekeepers have followed
    check(installation, ids, evidence)
    assert all(len(places) == 2 for places in producers.places.values())
    assert listener.wait_for(set(ids), 20)
    listener.close()
    assert {listener.terminal_events[i] for i in ids} == {1}
    assert audited(installation, database, tmp_path, ids) == {(i, "resubmitted") for i in ids}


@pytest.mark.timeout(240)
def test_every_spelling_and_both_partitioners_are_the_same_task(
    installation: Installation, producers: Producers
) -> None:
    ids, reader = planned(5), EvidenceReader(installation.kafka)
    for task_id, body in ids.items():
        for spelt in (task_id, task_id.upper(), f"{{{task_id}}}", f"urn:uuid:{task_id}", task_id.replace("-", "")):
            for default in (False, True):
                producers.send(task_id, spelt, body, default)
    producers.flush()
    evidence = wait_quiet(reader, set(ids))
    check(installation, ids, evidence)
    assert len({len(producers.places[i]) for i in ids}) == 1
    assert all(len(first_starts(evidence, i)) > 1 for i in ids)


@pytest.mark.timeout(240)
def test_a_node_killed_among_copies_changes_nothing(
    installation: Installation, producers: Producers, database: Database, tmp_path: Path
) -> None:

    ids, reader = planned(20), EvidenceReader(installation.kafka)
    for task_id, body in ids.items():
        producers.send(task_id, task_id, body)
        producers.send(task_id, task_id.upper(), body)
    producers.flush()
    done = FAULTS["kill_node"][0](installation, random.Random(1))
    evidence = wait_quiet(reader, set(ids))
    check(installation, ids, evidence, done)
    assert not {v for _, v in audited(installation, database, tmp_path, ids)} & {"lost", "unreceived"}


@pytest.mark.timeout(120)
def test_a_cancel_under_any_spelling_ends_all_copies(installation: Installation, producers: Producers) -> None:
    task_id, reader = id_in_two_partitions(), EvidenceReader(installation.kafka)
    body = {"name": "fragile", "payload": {"attempts": 0, "seconds": 60.0}}
    for spelt in (task_id, task_id.upper()):
        producers.send(task_id, spelt, body)
    producers.flush()
    deadline = time.monotonic() + PATIENCE_S
    while len(first_starts(reader.read(), task_id)) < 2:
        assert time.monotonic() < deadline, "both do not run"
        time.sleep(0.1)
    answer = httpx.delete(f"{installation.url}/tasks/{task_id.upper()}", timeout=30, verify=tls_context())
    assert (answer.status_code, answer.json()["id"]) == (202, task_id)
    Log(installation.settings).wait_no_claims(30)
    assert events_of(installation.url, task_id) == ["received", "started", "cancelled"]
    assert not files_of(installation.settings.results_root, task_id)
