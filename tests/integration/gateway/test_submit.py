"""Submitting over HTTP with a real Kafka: what is acknowledged, and what is refused with which problem."""

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from uuid import UUID

import httpx
import orjson
import pytest

from headrace import task
from headrace.contract.ids import id_of_idempotency_key, id_of_source, new_id
from headrace.contract.records import Outgoing, Record
from headrace.kafka.client import Kafka
from headrace.kafka.sender import Sender
from headrace.kinds import _registry as registry
from headrace.kinds import forget_kinds
from tests.rigs.gateway import BODY, Gateway, Stage, records_on, submission
from tests.rigs.topics import PARTITIONS, UNLIMITED, limit_records

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def gw(stage: Stage) -> Gateway:
    return stage.gw


def post(gw: Gateway, body: bytes = submission(), **headers: str) -> httpx.Response:
    return gw.http.post("/tasks", content=body, headers=JSON | {k.replace("_", "-"): v for k, v in headers.items()})


def records_of(stage: Stage, topic: str, *ids: str) -> list[Record]:
    keys = {i.encode() for i in ids}
    return [r for r in records_on(stage.settings, topic) if r.key in keys]


def test_an_accepted_submission_is_in_the_log_as_it_was_sent(gw: Gateway, stage: Stage) -> None:
    body = b' {"name": "prime",  "payload": {"upper_bound": 1000}, "directory": "demo"} '
    answer = post(gw, body, traceparent="00-abc-def-01", x_other="no")
    assert answer.status_code == 202
    task = answer.json()
    assert answer.headers["location"] == f"/tasks/{task['id']}" == task["links"]["self"]
    assert (task["name"], task["directory"], task["status"]) == ("prime", "demo", "queued")
    [record] = records_of(stage, "tasks.normal", task["id"])
    assert record.key == task["id"].encode()
    assert record.value == body
    assert dict(record.headers) == {"via": b"http", "traceparent": b"00-abc-def-01"}


def test_a_record_that_kafka_refuses_is_told_to_its_client_and_is_no_outage(gw: Gateway, stage: Stage) -> None:
    kafka, large = Kafka(stage.settings, "limits"), orjson.dumps(BODY | {"directory": "d" * 200})
    limit_records(kafka, "tasks.normal", 400)
    try:
        refused = post(gw, large, traceparent="x" * 400)
        assert refused.status_code == 503
        assert "raise the topic's max.message.bytes" in refused.json()["detail"]
        assert gw.http.get("/readyz").json()["reasons"] == []
        assert post(gw).status_code == 202
    finally:
        limit_records(kafka, "tasks.normal", UNLIMITED)


def test_no_gateway_answers_404_after_a_202(gw: Gateway, other: Gateway) -> None:
    for _ in range(30):
        task_id = post(gw).json()["id"]
        assert other.http.get(f"/tasks/{task_id}").status_code == 200
        assert gw.http.get(f"/tasks/{task_id}").json()["status"] == "queued"


def test_a_native_task_is_found_at_once_wherever_its_record_lies(gw: Gateway, stage: Stage) -> None:
    sender = Sender(Kafka(stage.settings, "native"))
    for n in range(30):
        task_id = new_id()
        key = None if n % 3 == 0 else task_id.upper().encode()
        [place] = sender.send_all([Outgoing("tasks.normal", key, submission(), partition=n % PARTITIONS)], 10)
        own = task_id if key else id_of_source(*place)
        assert gw.http.get(f"/tasks/{own.upper()}").json()["id"] == own
    sender.close()


@pytest.mark.parametrize(
    ("body", "status", "kind", "pointer"),
    [
        (b"{", 400, "bad-json", None),
        (b'{"name": NaN}', 400, "bad-json", None),
        (b'{"name": "prime", "name": "prime"}', 400, "bad-json", None),
        (b'{"name": "prime", "payload": {"\\u0061": 1, "a": 2}}', 400, "bad-json", None),
        (b'{"payload":' * 3000 + b"1" + b"}" * 3000, 422, "invalid-submission", "/payload/payload"),
        (b'{"payload":' * 500 + b"1" + b"}" * 500, 422, "invalid-submission", "/payload/payload"),
        (
            b'{"payload": {"a": "\\u0061", "b": ' + b"[" * 253 + b"]" * 253 + b"}}",
            422,
            "invalid-submission",
            "/payload/b",
        ),
        (b'{"payload": {"n": ' + b"9" * 4301 + b"}}", 422, "invalid-submission", "/payload/n"),
        (b'{"name": "prime", "payload": {"upper_bound": 99999999999999999999, "a": NaN}}', 400, "bad-json", None),
        (b'{"name": "\\ud800"}', 400, "bad-json", None),
        (b"\xff\xfe", 400, "bad-json", None),
        (b"[]", 422, "invalid-submission", ""),
        (orjson.dumps(BODY | {"directory": "../etc"}), 422, "invalid-submission", "/directory"),
        (orjson.dumps(BODY | {"directory": "/etc"}), 422, "invalid-submission", "/directory"),
        (orjson.dumps(BODY | {"timeout_s": -1}), 422, "invalid-submission", "/timeout_s"),
        (orjson.dumps(BODY | {"payload": {"upper_bound": "x"}}), 422, "invalid-payload", "/payload/upper_bound"),
        (orjson.dumps(BODY | {"payload": {}}), 422, "invalid-payload", "/payload"),
        (orjson.dumps(BODY | {"name": "\x1b[2J"}), 422, "invalid-submission", "/name"),
        (b'{"payload": {"\\ud800": ' + b"9" * 4301 + b"}}", 422, "invalid-submission", "/payload/\\ud800"),
        (orjson.dumps(BODY | {"name": "nothing"}), 422, "unknown-kind", "/name"),
    ],
)
def test_an_invalid_body_is_refused_with_a_problem_that_names_the_field(
    gw: Gateway, body: bytes, status: int, kind: str, pointer: str | None
) -> None:
    answer = post(gw, body)
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (answer.status_code, problem["type"], problem["status"]) == (status, f"/problems/{kind}", status)
    if pointer is not None:
        assert problem["errors"][0]["pointer"] == pointer
    if kind == "unknown-kind":
        assert "prime" in problem["kinds"]
        assert "prime" in problem["detail"]


@pytest.mark.parametrize("number", [2**64, 2**70, 10**4299])
def test_an_integer_of_any_size_is_accepted_and_logged_as_it_was_sent(gw: Gateway, stage: Stage, number: int) -> None:
    body = b'{"name": "prime", "payload": {"upper_bound": %d}, "directory": "demo"}' % number
    answers = [post(gw, body, idempotency_key=f"big-{number % 997}") for _ in range(2)]
    assert [a.status_code for a in answers] == [202, 202]
    [task_id] = {a.json()["id"] for a in answers}
    [record] = records_of(stage, "tasks.normal", task_id)
    assert record.value == body
    other = post(gw, body.replace(b"%d" % number, b"%d" % (number + 1)), idempotency_key=f"big-{number % 997}")
    assert other.json()["type"] == "/problems/idempotency-conflict"


def test_a_long_value_at_fault_is_not_sent_back_whole(gw: Gateway) -> None:
    answer = post(gw, submission(payload={"upper_bound": "x" * 800_000}))
    [error] = answer.json()["errors"]
    assert error["pointer"] == "/payload/upper_bound"
    assert 'xxx" is not of type "integer"' in error["detail"]
    assert len(answer.content) < 2000


def test_each_line_of_a_batch_has_its_own_limits(gw: Gateway) -> None:
    deep = b'{"name": "prime", "payload": {"a": ' + b"[" * 300 + b"]" * 300 + b'}, "directory": "demo"}'
    big = b'{"name": "prime", "payload": {"upper_bound": 123456789012345678901234567890}, "directory": "demo"}'
    answer = gw.http.post(
        "/tasks/batch", content=b"\n".join([big, deep, big]), headers={"content-type": "application/jsonl"}
    )
    first, refused, last = [orjson.loads(line) for line in answer.content.splitlines()]
    assert "id" in first
    assert "id" in last
    assert refused["error"]["errors"][0]["pointer"] == "/payload/a"


def test_a_schema_with_big_integers_is_shown_and_checked_exactly(gw: Gateway, stage: Stage) -> None:
    stage.roles.announce("big", {"type": "object", "properties": {"n": {"type": "integer", "maximum": 2**70}}})
    body = b'{"name": "big", "payload": {"n": %d}, "directory": "demo"}'
    assert post(gw, body % 2**70).status_code == 202
    assert post(gw, body % (2**70 + 1)).status_code == 422
    assert str(2**70) in gw.http.get("/kinds").text


def test_a_kind_announced_a_moment_ago_is_known(gw: Gateway, stage: Stage) -> None:
    for n in range(5):
        stage.roles.announce(f"kind-{n}", {"type": "object"})
        assert post(gw, submission(name=f"kind-{n}")).status_code == 202


def test_a_kind_announced_a_moment_ago_is_known_in_a_batch(gw: Gateway, stage: Stage) -> None:
    for n in range(5):
        stage.roles.announce(f"batch-kind-{n}", {"type": "object"})
        lines = [submission(), submission(name=f"batch-kind-{n}"), submission(name="nothing")]
        answer = gw.http.post("/tasks/batch", content=b"\n".join(lines), headers={"content-type": "application/jsonl"})
        first, fresh, unknown = [orjson.loads(line) for line in answer.content.splitlines()]
        assert "id" in first
        assert "id" in fresh
        assert unknown["error"]["type"] == "/problems/unknown-kind"


def test_a_payload_that_its_kind_would_refuse_gets_no_202(gw: Gateway, stage: Stage) -> None:
    def book(day: date, seats: int, names: dict[int, UUID]) -> None: ...

    forget_kinds()
    task(book)
    kind = registry["book"].info()
    forget_kinds()
    stage.roles.announce(kind.name, kind.schema)
    stage.roles.send(kind.encode())
    good = {"day": "2020-02-29", "seats": 2.0, "names": {"1": str(uuid.uuid4())}}
    assert post(gw, submission(name="book", payload=good)).status_code == 202
    wrong = {"day": "2020-02-30", "seats": 2.5, "names": {"x": "nope"}}
    problem = post(gw, submission(name="book", payload=wrong)).json()
    assert problem["type"] == "/problems/invalid-payload"
    found = {e["pointer"] for e in problem["errors"]}
    assert found == {"/payload/day", "/payload/seats", "/payload/names", "/payload/names/x"}
    assert not next(k for k in gw.http.get("/kinds").json()["items"] if k["name"] == "book")["checked_on_node"]


def test_only_json_is_accepted(gw: Gateway) -> None:
    answer = gw.http.post("/tasks", content=submission(), headers={"content-type": "text/plain"})
    assert (answer.status_code, answer.json()["type"]) == (415, "/problems/unsupported-media-type")


def test_a_body_that_is_too_large_is_refused_before_it_has_been_read(gw: Gateway) -> None:
    answer = post(gw, b" " * 900_001)
    assert (answer.status_code, answer.json()["type"]) == (413, "/problems/too-large")
    chunks = (b" " * 100_000 for _ in range(10))
    answer = gw.http.post("/tasks", content=chunks, headers=JSON)
    assert answer.status_code == 413


def test_a_body_of_the_largest_size_is_accepted(gw: Gateway) -> None:
    body = submission()
    assert post(gw, body + b" " * (900_000 - len(body))).status_code == 202


def test_high_priority_goes_to_its_own_topic(gw: Gateway, stage: Stage) -> None:
    task_id = post(gw, submission(priority="high")).json()["id"]
    [record] = records_of(stage, "tasks.high", task_id)
    assert record.key == task_id.encode()


def test_a_repeat_under_an_idempotency_key_is_the_same_task_on_any_gateway(
    gw: Gateway, other: Gateway, stage: Stage
) -> None:
    first = post(gw, idempotency_key="k-1").json()
    again = post(gw, orjson.dumps(dict(reversed(BODY.items()))), idempotency_key="k-1").json()
    elsewhere = post(other, idempotency_key="k-1").json()
    conflict = post(other, submission(directory="x"), idempotency_key="k-1")
    assert first["id"] == again["id"] == elsewhere["id"]
    assert (conflict.status_code, conflict.json()["type"]) == (422, "/problems/idempotency-conflict")
    assert len(records_of(stage, "tasks.normal", first["id"])) == 1


@pytest.mark.parametrize(("hours", "is_same"), [(23, True), (25, False)])
def test_an_idempotency_key_is_free_again_after_a_day(
    gw: Gateway, other: Gateway, stage: Stage, hours: int, is_same: bool
) -> None:
    key = f"day-{hours}"
    old = id_of_idempotency_key("", key)
    submitted = (("submitted-ms", str(int(time.time() - hours * 3600) * 1000).encode()),)
    stage.roles.send(Outgoing("tasks.high", old.encode(), submission(), submitted))
    first = post(gw, idempotency_key=key).json()["id"]
    assert (first == old) is is_same
    assert post(other, idempotency_key=key).json()["id"] == first
    assert len(records_of(stage, "tasks.normal", first)) == (0 if is_same else 1)
    conflict = post(other, submission(directory="x"), idempotency_key=key)
    assert conflict.status_code == (202 if is_same else 422), "the old record has no digest"


def test_of_two_bodies_sent_at_once_under_one_key_only_one_is_accepted(gw: Gateway, other: Gateway) -> None:
    with ThreadPoolExecutor(2) as pool:
        for n in range(10):
            barrier = threading.Barrier(2)

            def send(to: Gateway, directory: str, key: str = f"race-{n}", barrier: threading.Barrier = barrier) -> int:
                barrier.wait()
                return post(to, submission(directory=directory), idempotency_key=key).status_code

            answers = list(pool.map(send, (gw, other), ("a", "b")))
            assert sorted(answers) == [202, 422]


def test_a_batch_answers_line_by_line_in_order(gw: Gateway, stage: Stage) -> None:
    lines = [submission(payload={"upper_bound": n}) for n in range(10_000)]
    lines[7], lines[4_000] = b"{", orjson.dumps(BODY | {"directory": ".."})
    answer = gw.http.post("/tasks/batch", content=b"\n".join(lines), headers={"content-type": "application/x-ndjson"})
    assert answer.headers["content-type"] == "application/x-ndjson"
    answers = [orjson.loads(line) for line in answer.content.splitlines()]
    assert len(answers) == 10_000
    assert answers[7]["error"]["type"] == "/problems/bad-json"
    assert answers[4_000]["error"]["errors"][0]["pointer"] == "/directory"
    by_id = {r.key: r.value for r in records_on(stage.settings, "tasks.normal")}
    assert len({a["id"] for a in answers if "id" in a}) == 9_998
    for line, given in zip(lines, answers, strict=True):
        if "id" in given:
            uuid.UUID(given["id"])
            assert by_id[given["id"].encode()] == line


def test_other_sites_and_other_hosts_are_refused(gw: Gateway) -> None:
    assert post(gw, origin="https://evil.example").json()["type"] == "/problems/forbidden-origin"
    assert post(gw, host="evil.example").json()["type"] == "/problems/forbidden-host"
    assert post(gw, origin="null").status_code == 403
    assert post(gw, origin=gw.url).status_code == 202
    assert gw.http.get("/tasks", headers={"host": "localhost:1"}).status_code == 200
