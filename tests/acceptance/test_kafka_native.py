"""Tasks submitted through Kafka, by a producer that knows only the topics of Headrace."""

import json
import uuid
from pathlib import Path

from tests.acceptance.conftest import Client, Log, headers, until

_NAMESPACE = uuid.UUID("6d0bd86f-2f2f-5c57-9d0c-3f5d3a2c9a11")


def body(**more: object) -> bytes:
    return json.dumps({"name": "prime", "payload": {"upper_bound": 100}, "directory": "native"} | more).encode()


def wait_for_task(client: Client, task_id: str) -> dict[str, object]:
    until(lambda: client.http.get(f"/tasks/{task_id}").status_code == 200, f"{task_id} is known")
    return client.wait(task_id)


def id_of_source(log: Log, partition: int, offset: int) -> str:
    """The id of a record without a key: UUIDv5 of its topic, partition and offset."""
    return str(uuid.uuid5(_NAMESPACE, f"tasks.normal/{partition}/{offset}"))


def test_a_keyed_record_is_a_task(client: Client, log: Log, results: Path) -> None:
    task_id = str(uuid.uuid4())
    log.produce(body(payload={"upper_bound": 100_000}), task_id)
    assert wait_for_task(client, task_id)["status"] == "completed"
    assert len(json.loads((results / "native" / f"{task_id}.json").read_bytes())) == 9592
    for topic in ("lifecycle.received", "lifecycle.started", "lifecycle.completed"):
        assert log.ids(topic).count(task_id) == 1
    [received] = [m for m in log.read("lifecycle.received") if m.key() == task_id.encode()]
    assert headers(received)["via"] == "kafka"


def test_a_record_without_a_key_gets_its_id_from_its_offset(client: Client, log: Log) -> None:
    assert wait_for_task(client, id_of_source(log, *log.produce(body())))["status"] == "completed"


def test_a_key_that_is_not_a_uuid_is_not_an_id(client: Client, log: Log) -> None:
    assert wait_for_task(client, id_of_source(log, *log.produce(body(), "order-42")))["status"] == "completed"


def test_an_undecodable_record_is_received_and_ends_as_a_dead_letter_and_stops_nothing(
    client: Client, log: Log
) -> None:
    task_id, after = str(uuid.uuid4()), str(uuid.uuid4())
    log.produce(b"\xff\x00 no json", task_id)
    log.produce(body(), after)
    assert wait_for_task(client, after)["status"] == "completed"
    dead = log.dead(task_id)
    assert dead.value() == b"\xff\x00 no json"
    assert headers(dead)["reason"] == "invalid"
    assert "JSON" in headers(dead)["error"]
    assert task_id in log.ids("lifecycle.received")
    assert client.task(task_id)["status"] == "failed"


def test_a_directory_outside_the_root_ends_as_a_dead_letter_and_writes_nothing(
    client: Client, log: Log, results: Path
) -> None:
    task_id = str(uuid.uuid4())
    log.produce(body(directory="../../outside"), task_id)
    assert headers(log.dead(task_id))["reason"] == "invalid"
    assert not list(results.parent.rglob(f"*{task_id}*"))


def test_an_unknown_kind_ends_as_a_dead_letter_that_lists_the_known_kinds(client: Client, log: Log) -> None:
    task_id = str(uuid.uuid4())
    log.produce(body(name="no-such-kind"), task_id)
    dead = headers(log.dead(task_id))
    assert dead["reason"] == "unknown-kind"
    assert "prime" in dead["error"]


def test_900000_bytes_pass_and_more_ends_as_a_dead_letter(client: Client, log: Log) -> None:
    def sized(size: int) -> bytes:
        payload = {"text": "", "algorithm": "gzip"}
        empty = len(body(name="compression", payload=payload))
        return body(name="compression", payload={"text": "x" * (size - empty), "algorithm": "gzip"})

    fits, too_large = str(uuid.uuid4()), str(uuid.uuid4())
    log.produce(sized(900_000), fits)
    log.produce(sized(900_001), too_large)
    assert wait_for_task(client, fits)["status"] == "completed"
    dead = log.dead(too_large)
    assert headers(dead)["reason"] == "invalid"
    assert "900000" in headers(dead)["error"].replace(",", "")
    assert len(dead.value()) == 900_001


def test_the_same_record_twice_runs_once(client: Client, log: Log) -> None:
    task_id = str(uuid.uuid4())
    log.produce(body(), task_id)
    log.produce(body(), task_id)
    after = str(uuid.uuid4())
    log.produce(body(), after)
    assert wait_for_task(client, task_id)["status"] == "completed"
    assert wait_for_task(client, after)["status"] == "completed"
    for topic in ("lifecycle.received", "lifecycle.started", "lifecycle.completed"):
        assert log.ids(topic).count(task_id) == 1, topic


def test_unknown_headers_are_kept_to_the_end(client: Client, log: Log) -> None:
    task_id = str(uuid.uuid4())
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    log.produce(body(), task_id, headers=[("traceparent", trace.encode())])
    assert wait_for_task(client, task_id)["status"] == "completed"
    [completed] = [m for m in log.read("lifecycle.completed") if m.key() == task_id.encode()]
    assert headers(completed)["traceparent"] == trace
