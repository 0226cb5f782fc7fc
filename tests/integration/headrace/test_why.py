"""`headrace why` on a real broker: a task with a key, one without, and records that cannot be read."""

import time
from collections.abc import Callable
from dataclasses import replace

import orjson
import pytest

from headrace.cli.main import main
from headrace.contract.cluster import Cancel
from headrace.contract.ids import id_of_source, new_id
from headrace.contract.journal import Claim
from headrace.contract.ledger import Failure
from headrace.contract.lifecycle import received_event, started_event
from headrace.contract.outcome import Outcome
from headrace.contract.progress import Progress
from headrace.contract.records import Outgoing, Record, Source
from headrace.contract.states import Cause, Reason
from headrace.contract.task import Task
from headrace.kafka.partitioner import partition_of
from headrace.kafka.sender import Sender
from headrace.settings import Settings
from tests.rigs.topics import PARTITIONS

RAW = b'{"name": "fragile", "payload": {}, "directory": "demo"}'


History = Callable[..., list[str]]


@pytest.fixture
def history_of(kafka_settings: Settings, topics: str, capsys: pytest.CaptureFixture[str]) -> History:
    def history(task_id: str, code: int = 0) -> list[str]:
        capsys.readouterr()
        options = ["--json", "--kafka", kafka_settings.kafka, "--topic-prefix", kafka_settings.topic_prefix]
        assert main(["why", task_id, *options]) == code
        said = capsys.readouterr()
        assert said.err == "", said.err
        return [line["what"] for line in orjson.loads(said.out)]

    return history


def test_the_history_of_a_replayed_task_is_complete_and_in_order(history_of: History, sender: Sender) -> None:
    task_id = new_id()
    key = task_id.encode()

    def send(out: Outgoing) -> Source:
        """Sends in a millisecond of its own: records of different topics have no finer order."""
        place = Source(*sender.send_all([out], 10)[0])
        acknowledged_ms = time.time_ns() // 1_000_000
        while time.time_ns() // 1_000_000 <= acknowledged_ms:
            pass
        return place

    source = send(Outgoing("tasks.normal", key, RAW))
    task = Task.from_record(Record(source.topic, source.partition, source.offset, timestamp_ms=1, key=key, value=RAW))
    send(received_event(task, "fragile", "demo", "kafka"))
    claim = Claim((task,), by="boot-1", for_="boot-1", generation=4, node="node-1")
    send(claim.encode())
    send(started_event(task, "fragile", "demo", "node-1", "boot-1"))
    send(Progress(task_id, 1, 0.5, "half").encode())
    send(Outgoing("tasks.normal", key, RAW))
    again = task.next_attempt(
        Failure(1, Cause.PROCESS_DEATH, node="node-1", started_ms=1, ended_ms=2, detail="killed by SIGKILL")
    )
    high = send(again)
    send(claim.tombstone("retried"))
    second = Task.from_record(
        Record(high.topic, high.partition, high.offset, timestamp_ms=1, key=key, value=RAW, headers=again.headers)
    )
    send(started_event(second, "fragile", "demo", "node-2", "boot-2"))
    outcome = Outcome(
        task_id,
        "completed",
        b"[]",
        attempt=2,
        boot="boot-2",
        node="node-2",
        source=high,
        submitted_ms=1,
        name="fragile",
        directory="demo",
        suffix=".json",
    )
    send(outcome.encode())
    send(
        Outcome(
            task_id,
            "cancelled",
            RAW,
            attempt=1,
            boot="gateway",
            node="",
            source=source,
            submitted_ms=1,
            reason=Reason.CANCELLED,
        ).encode()
    )
    send(replace(outcome, offset=3).completed_event(f"demo/{task_id}.json", 2, "ab" * 32))
    send(Cancel(task_id, "me").encode())

    history = history_of(task_id)
    expected = [
        "submitted: fragile",
        "received over kafka",
        "attempt 1 claimed on node-1",
        "attempt 1 begins on node-1",
        "attempt 1 reports 50% half",
        "attempt 1 once more: dropped",
        "attempt 2 waits for a slot after process-death on node-1: killed by SIGKILL",
        "is over: its next attempt",
        "attempt 2 begins on node-2",
        "attempt 2 on node-2: completed; this decides",
        "passed over",
        "completed: 2 bytes",
        "cancel requested by me",
    ]
    assert len(history) == len(expected)
    for line, words in zip(history, expected, strict=True):
        assert words in line


def test_copies_in_two_partitions_are_told_as_such(history_of: History, sender: Sender) -> None:
    task_id = new_id()
    home = partition_of(task_id.encode(), PARTITIONS)
    places = sender.send_all(
        [
            Outgoing("tasks.normal", task_id.encode(), RAW, partition=home),
            Outgoing("tasks.normal", task_id.upper().encode(), RAW, partition=(home + 1) % PARTITIONS),
        ],
        10,
    )
    for place in places:
        record = Record(*place, timestamp_ms=1, key=task_id.encode(), value=RAW)
        sender.send_all([received_event(Task.from_record(record), "fragile", "demo", "kafka")], 10)
    history = history_of(task_id.upper())
    assert sum("submitted: fragile" in line for line in history) == 2
    assert sum("once more, in another partition" in line for line in history) == 1


def test_a_task_without_a_key_is_found_by_its_source(history_of: History, sender: Sender) -> None:
    [place] = sender.send_all([Outgoing("tasks.normal", b"no uuid", b"garbage")], 10)
    task_id = id_of_source(*place)
    [line] = history_of(task_id)
    assert "not valid" in line
    task = Task.from_record(Record(*place, timestamp_ms=1, key=b"no uuid", value=b"garbage"))
    sender.send_all(
        [
            Claim((task,), by="boot", for_="boot", generation=1, node="node-1").encode(),
            received_event(task, "", "", "kafka"),
        ],
        10,
    )
    assert len(history_of(task_id)) == 3


def test_records_that_cannot_be_read_are_part_of_the_history(history_of: History, sender: Sender) -> None:
    task_id = new_id()
    sender.send_all(
        [
            Outgoing("results", task_id.encode(), b"x", (("outcome", b"maybe"),)),
            Outgoing("progress", task_id.encode(), b"{"),
        ],
        10,
    )
    history = history_of(task_id)
    assert len(history) == 2
    assert all("cannot be read" in line for line in history)


def test_an_unknown_id_has_no_history(history_of: History) -> None:
    assert history_of(new_id(), 4) == []


def test_an_argument_that_is_not_an_id_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", "not-an-id", "--kafka", "127.0.0.1:1"]) == 2
    assert "is not a task id" in capsys.readouterr().err


def test_produce_sends_an_id_in_its_one_form(
    history_of: History, kafka_settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    task_id = new_id()
    options = ["--kafka", kafka_settings.kafka, "--topic-prefix", kafka_settings.topic_prefix]
    assert main(["produce", "prime", "{}", "--id", f"{{{task_id.upper()}}}", *options]) == 0
    assert capsys.readouterr().out.startswith(f"{task_id}  tasks.normal/")
    assert history_of(task_id) == ["submitted: prime, results to default"]
