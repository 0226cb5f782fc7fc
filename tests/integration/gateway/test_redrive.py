"""Redriving dead letters over HTTP with a real Kafka: which ones, how fast, to which topic, and what a call answers."""

import time
import uuid
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import orjson
import pytest

from gateway.routes import dead_letters
from headrace.contract.ids import id_of_redrive, new_id
from headrace.contract.lifecycle import received_event
from headrace.contract.records import Outgoing, Source
from headrace.contract.states import Reason
from headrace.contract.task import Task
from headrace.errors import Retryable
from tests.rigs.gateway import BODY, Stage, records_on, submission


def make_dead(stage: Stage, count: int, value: bytes = submission()) -> tuple[str, list[str]]:
    """(a kind of their own in the dead letters' headers, their ids, oldest first)."""
    kind, ids = f"dead-{uuid.uuid4().hex[:6]}", [new_id() for _ in range(count)]
    for number, task_id in enumerate(ids):
        outcome = replace(stage.roles.outcome(task_id), outcome="failed", name=kind, value=value, reason=Reason.FAILED)
        stage.roles.send(replace(outcome, submitted_ms=outcome.submitted_ms + number).dead_letter())
    deadline = time.monotonic() + 20
    while len(stage.gw.http.get("/dead", params={"name": kind}).json()["items"]) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return kind, ids


def redrive(stage: Stage, status: int = 202, **body: Any) -> dict[str, Any]:
    answer = stage.gw.http.post("/dead/redrive", json=body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def redriven(answer: dict[str, Any]) -> list[str]:
    return [i["redrive_of"] for i in answer["items"] if "id" in i]


def test_a_redrive_keeps_the_priority_of_the_submission(stage: Stage) -> None:
    kind, _ = make_dead(stage, 1, submission(priority="high"))
    [item] = redrive(stage, name=kind)["items"]
    assert [r.topic for r in records_on(stage.settings, "tasks.high") if r.key == item["id"].encode()] == ["tasks.high"]
    assert not [r for r in records_on(stage.settings, "tasks.normal") if r.key == item["id"].encode()]


def test_integers_stay_exact_in_a_redrive_and_in_its_edited_payload(stage: Stage) -> None:
    as_it_was = submission(payload={"upper_bound": 1}).replace(b":1}", b":%d}" % 2**70)
    kind, _ = make_dead(stage, 1, as_it_was)
    ids = [redrive(stage, name=kind)["items"][0]["id"]]
    body = b'{"name": "%s", "again": true, "payload": {"upper_bound": %d}}' % (kind.encode(), 2**80)
    answer = stage.gw.http.post("/dead/redrive", content=body, headers={"content-type": "application/json"})
    ids += [answer.json()["items"][0]["id"]]
    sent = {r.key: r.value or b"" for r in records_on(stage.settings, "tasks.normal")}
    assert sent[ids[0].encode()] == as_it_was
    assert b'"upper_bound":%d}' % 2**80 in sent[ids[1].encode()]


def test_a_call_at_a_low_rate_answers_at_once_and_says_where_to_go_on(stage: Stage) -> None:
    kind, ids = make_dead(stage, 3)
    began = time.monotonic()
    first = redrive(stage, name=kind, rate=0.01)
    assert time.monotonic() - began < 10
    assert (redriven(first), first["left"]) == ([ids[2]], 2)
    assert 90 < first["wait_s"] <= 100
    # `again` would take the first task a second time, so only the cursor makes progress.
    second = redrive(stage, name=kind, rate=0.01, again=True, cursor=first["next"])
    assert (redriven(second), second["left"]) == ([ids[1]], 1)
    last = redrive(stage, name=kind)
    assert (redriven(last), last["left"], last["next"]) == ([ids[0]], 0, None)


def test_a_call_keeps_to_its_rate(stage: Stage) -> None:
    kind, _ = make_dead(stage, 5)
    began = time.monotonic()
    assert redrive(stage, name=kind, rate=10)["redriven"] == 5
    assert time.monotonic() - began >= 0.4


def test_more_dead_letters_than_a_call_looks_at_are_reached_by_cursor(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "MAX_REDRIVE", 2)
    kind, ids = make_dead(stage, 5)
    found, cursor = [], None
    for expected in (2, 2, 1):
        answer = redrive(stage, name=kind, cursor=cursor)
        assert answer["redriven"] == expected
        found += redriven(answer)
        cursor = answer["next"]
    assert cursor is None
    assert found == ids[::-1]


def test_a_call_that_fails_halfway_says_which_tasks_were_redriven(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, ids = make_dead(stage, 3)
    sender = stage.gw.dependencies.sender
    send, sent = sender.send, []

    def send_one(record: Outgoing) -> Future[Any]:
        if len(sent) < 2:  # the first task and its note
            sent.append(record)
            return send(record)
        failed: Future[Any] = Future()
        failed.set_exception(Retryable("no answer"))
        return failed

    monkeypatch.setattr(sender, "send", send_one)
    problem = redrive(stage, 503, name=kind)
    assert (problem["type"], redriven(problem), problem["redriven"]) == ("/problems/kafka-unavailable", [ids[2]], 1)
    monkeypatch.undo()
    deadline = time.monotonic() + 20
    while stage.gw.dependencies.broker_probe.unavailable:
        assert time.monotonic() < deadline, "the probe must find out that Kafka answers"
        time.sleep(0.05)
    rest = redrive(stage, name=kind, cursor=problem["next"])
    assert redriven(rest) == [ids[1], ids[0]]


def test_named_tasks_are_redriven_and_others_are_told(stage: Stage) -> None:
    _, ids = make_dead(stage, 2)
    queued = stage.gw.http.post("/tasks", content=submission(), headers={"content-type": "application/json"})
    unknown = new_id()
    answer = redrive(stage, ids=[ids[0].upper(), queued.json()["id"], unknown])
    assert redriven(answer) == [ids[0]]
    errors = {i["redrive_of"]: i["error"] for i in answer["items"] if "error" in i}
    assert "queued" in errors[queued.json()["id"]]
    assert "no task" in errors[unknown]


def test_a_submitter_cannot_hide_a_dead_letter(stage: Stage) -> None:
    """Headers that name it, and tasks under the ids of its redrives, are all that a submitter can write."""
    kind, [dead, other] = make_dead(stage, 2)
    forged = (("redrive-of", dead.encode()), ("via", b"http"))
    ids = [new_id(), id_of_redrive(other, 1)]
    stage.roles.send(*(Outgoing("tasks.normal", i.encode(), submission(directory="forged"), forged) for i in ids))
    old = Task(ids[0], submission(), attempt=1, source=Source("tasks.normal", 0, 0), submitted_ms=1, foreign=forged)
    stage.roles.send(received_event(old, "prime", "demo", "kafka"))  # as a worker that knew no better would announce it
    for task_id in ids:
        deadline = time.monotonic() + 20
        while stage.gw.http.get(f"/tasks/{task_id}").status_code == 404:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert stage.gw.http.get(f"/tasks/{task_id}").json()["redrive_of"] is None
    made = {i["redrive_of"]: i["id"] for i in redrive(stage, name=kind)["items"]}
    assert made == {dead: id_of_redrive(dead, 1), other: id_of_redrive(other, 2)}
    assert redriven(redrive(stage, name=kind)) == [], "both are known to be redriven"
    for task_id, new in made.items():
        assert stage.gw.http.get(f"/tasks/{new}").json()["redrive_of"] == task_id


def test_a_call_after_a_crash_before_the_note_makes_the_same_task_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, [dead] = make_dead(stage, 1)
    sender = stage.gw.dependencies.sender
    send = sender.send

    def send_no_note(record: Outgoing) -> Future[Any]:
        if record.topic != "tasks.redriven":
            return send(record)
        failed: Future[Any] = Future()
        failed.set_exception(Retryable("no answer"))
        return failed

    monkeypatch.setattr(sender, "send", send_no_note)
    assert redriven(redrive(stage, 503, name=kind)) == []
    monkeypatch.undo()
    deadline = time.monotonic() + 20
    while stage.gw.dependencies.broker_probe.unavailable:
        assert time.monotonic() < deadline, "the probe must find out that Kafka answers"
        time.sleep(0.05)
    [again] = redrive(stage, name=kind)["items"]
    assert again == {"redrive_of": dead, "id": id_of_redrive(dead, 1)}


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"nmae": "prime"}, "/nmae"),
        ({"dry_run": "yes"}, "/dry_run"),
        ({"again": 1}, "/again"),
        ({"name": ["prime"]}, "/name"),
        ({"rate": -1}, "/rate"),
        ({"payload": []}, "/payload"),
        ({"ids": []}, "/ids"),
        ({"ids": ["x"]}, "/ids/0"),
        ({"ids": [new_id()], "name": "prime"}, "/ids"),
    ],
)
def test_a_wrong_or_unknown_field_redrives_nothing(stage: Stage, body: dict[str, Any], pointer: str) -> None:
    kind, _ = make_dead(stage, 1)
    problem = redrive(stage, 400, **{"name": kind} | body if "ids" not in body else body)
    assert problem["errors"][0]["pointer"] == pointer
    assert redrive(stage, 200, name=kind, dry_run=True)["would_redrive"] == 1


@pytest.mark.parametrize(
    ("payload", "words"), [({"upper_bound": "x"}, "/payload/upper_bound"), ({"upper_bound": 1, "y": 2}, "'y'")]
)
def test_a_payload_that_the_kind_refuses_is_not_redriven(stage: Stage, payload: dict[str, Any], words: str) -> None:
    kind, _ = make_dead(stage, 1)
    answer = redrive(stage, name=kind, payload=payload)
    assert (answer["redriven"], words in answer["items"][0]["error"]) == (0, True)


def test_a_submission_that_can_never_be_valid_is_not_redriven(stage: Stage) -> None:
    for value in (b"{", orjson.dumps(BODY | {"name": "nothing"})):
        kind, _ = make_dead(stage, 1, value)
        answer = redrive(stage, name=kind)
        assert (answer["redriven"], "cannot be redriven" in answer["items"][0]["error"]) == (0, True)
