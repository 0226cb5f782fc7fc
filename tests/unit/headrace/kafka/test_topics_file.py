"""`topics.yaml` is the contract's file: every example decodes, and code and file name the same topics."""

import re
from pathlib import Path

import pytest

from headrace.contract.cluster import Cancel, Heartbeat, KindInfo, Redriven
from headrace.contract.journal import Claim, decode_journal
from headrace.contract.lifecycle import Event
from headrace.contract.outcome import Outcome
from headrace.contract.progress import Progress
from headrace.contract.records import Outgoing, Record
from headrace.contract.task import Task
from headrace.kafka.topics import Topic, load_topics

TOPICS = load_topics()
ROOT = Path(__file__).resolve().parents[4]
DECODERS = {
    "tasks.normal": lambda r: Task.from_record(r).submission(),
    "tasks.high": lambda r: Task.from_record(r).submission(),
    "tasks.running": decode_journal,
    "results": Outcome.decode,
    "tasks.dead": Event.decode,
    "lifecycle.received": Event.decode,
    "lifecycle.started": Event.decode,
    "lifecycle.completed": Event.decode,
    "progress": Progress.decode,
    "tasks.control": Cancel.decode,
    "tasks.redriven": Redriven.decode,
    "nodes": Heartbeat.decode,
    "kinds": KindInfo.decode,
}


def record_of(topic: Topic) -> Record:
    e = topic.example
    headers = tuple((k, str(v).encode()) for k, v in (e.get("headers") or {}).items())
    return Record(
        topic.name,
        e.get("partition", 0),
        5,
        timestamp_ms=1764000000000,
        key=e["key"].encode(),
        value=e["value"].encode(),
        headers=headers,
    )


def read_back(sent: Outgoing) -> Record:
    return Record(
        sent.topic,
        max(0, sent.partition),
        5,
        timestamp_ms=1764000000000,
        key=sent.key,
        value=sent.value,
        headers=sent.headers,
    )


@pytest.mark.parametrize("name", TOPICS)
def test_every_example_decodes(name: str) -> None:
    assert DECODERS[name](record_of(TOPICS[name])) is not None


@pytest.mark.parametrize(
    "name", ["tasks.running", "results", "progress", "tasks.control", "tasks.redriven", "nodes", "kinds"]
)
def test_what_a_decoder_makes_encodes_back_to_the_same(name: str) -> None:
    made = DECODERS[name](record_of(TOPICS[name]))
    again = DECODERS[name](read_back(made.encode()))
    assert again == made


def test_the_code_names_no_other_topic() -> None:
    named = set()
    for package in ("headrace", "agents", "gateway", "spark_analytics"):
        for path in (ROOT / package).rglob("*.py"):
            named |= set(re.findall(r'"((?:tasks|lifecycle)\.[a-z]+)"', path.read_text()))
    assert named <= TOPICS.keys()
    assert {t for t in TOPICS if "." in t} <= named | {"tasks.control"}


def test_every_topic_says_who_writes_and_reads_it_and_keeps_task_records_for_ever() -> None:
    for topic in TOPICS.values():
        assert topic.description.endswith(".")
        assert topic.producers
        assert topic.consumers
        assert topic.config["message.timestamp.type"] == "LogAppendTime"
    for name in ("tasks.normal", "tasks.high", "tasks.control", "tasks.redriven"):
        assert TOPICS[name].config["retention.ms"] == "-1"


def test_a_claim_keeps_the_submission_byte_for_byte_and_foreign_headers_with_it() -> None:
    raw = b'{"name" : "prime",  "payload":{"upper_bound":1e2},"directory":"demo"}\n'
    key = b"0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a11"
    record = Record(
        "tasks.normal", 3, 17, timestamp_ms=1764000000000, key=key, value=raw, headers=(("traceparent", b"\xff\x00"),)
    )
    task = Task.from_record(record)
    again = decode_journal(read_back(Claim((task, task), by="boot", for_="boot", generation=4, node="node-1").encode()))
    assert isinstance(again, Claim)
    assert again.tasks == (task, task)
    assert again.tasks[1].raw == raw
