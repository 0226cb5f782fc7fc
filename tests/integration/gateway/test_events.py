"""Statuses, event streams and results over a real Kafka, with the records that other roles would send."""

import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from gateway.view.projector import TOPICS
from headrace.contract.cluster import Cancel
from headrace.contract.ids import new_id
from headrace.contract.outcome import Outcome
from headrace.contract.records import Outgoing
from headrace.contract.states import Reason
from headrace.settings import Settings
from infra.local.process import free_port
from tests.rigs.gateway import Gateway, OtherRoles, Stage, events_of, gateway, records_on, submission

Events = Iterator[dict[str, Any]]


def submit(gw: Gateway) -> str:
    answer = gw.http.post("/tasks", content=submission(), headers={"content-type": "application/json"})
    assert answer.status_code == 202, answer.text
    found: str = answer.json()["id"]
    return found


@contextmanager
def stream(gw: Gateway, path: str, last: str = "") -> Iterator[Events]:
    headers = {"last-event-id": last} if last else {}
    with gw.http.stream("GET", path, headers=headers) as response:
        assert response.status_code == 200
        yield (e for e in events_of(response) if "event" in e)


@contextmanager
def all_events(gw: Gateway, query: str = "", last: str = "") -> Iterator[Events]:
    """The stream of all tasks, once it is connected."""
    headers = {"last-event-id": last} if last else {}
    with gw.http.stream("GET", f"/events{query}", headers=headers) as response:
        found = events_of(response)
        first = next(found)
        assert "comment" in first or first["event"] == "reset"
        yield _after(first, found)


def _after(first: dict[str, Any], found: Events) -> Events:
    if "event" in first:
        yield first
    yield from (e for e in found if "event" in e)


def ids_and_names(events: Events) -> list[tuple[str, str]]:
    return [(e["id"], e["event"]) for e in events]


def test_a_stream_sends_each_event_as_it_happens_and_ends_with_the_task(stage: Stage) -> None:
    task_id = submit(stage.gw)
    with stream(stage.gw, f"/tasks/{task_id}/events") as events:
        stage.roles.received(task_id)
        received = next(events)
        assert (received["id"], received["event"], received["data"]["status"]) == ("1", "received", "queued")
        assert received["data"]["id"] == task_id
        stage.roles.started(task_id)
        assert (next(events))["event"] == "started"
        stage.roles.progress(task_id, 0.5, "halfway")
        progress = next(events)
        assert (progress["event"], progress["data"]["fraction"], progress["data"]["message"]) == (
            "progress",
            0.5,
            "halfway",
        )
        assert progress["id"].startswith("p")
        stage.roles.completed(task_id)
        ended = next(events)
        assert (ended["id"], ended["event"], ended["data"]["status"]) == ("9", "completed", "completed")
        assert ended["data"]["result"]["href"] == f"/tasks/{task_id}/result"
        assert list(events) == []
    for event in (received, progress, ended):
        assert {"id", "name", "directory", "status", "at"} <= event["data"].keys()
        assert (event["data"]["name"], event["data"]["directory"]) == ("prime", "demo")


def test_a_stream_resumes_on_another_gateway_without_a_gap_or_a_repeat(stage: Stage, other: Gateway) -> None:
    task_id = submit(stage.gw)
    stage.roles.received(task_id)
    stage.roles.started(task_id)
    for n in range(5):
        stage.roles.progress(task_id, n / 5)
    stage.roles.completed(task_id)
    with stream(stage.gw, f"/tasks/{task_id}/events") as events:
        whole = ids_and_names(events)
    assert [e for _, e in whole] == ["received", "started", *["progress"] * 5, "completed"]
    for at, (place, _) in enumerate(whole[:-1]):
        with stream(other, f"/tasks/{task_id}/events", last=place) as events:
            assert ids_and_names(events) == whole[at + 1 :]
    assert other.http.get(f"/tasks/{task_id}/events", headers={"last-event-id": "9"}).status_code == 204


def test_a_later_event_brings_earlier_ones_whose_records_are_unread(stage: Stage) -> None:
    task_id = submit(stage.gw)
    with stream(stage.gw, f"/tasks/{task_id}/events") as events:
        stage.roles.completed(task_id)
        first = ids_and_names(events)
    stage.roles.started(task_id)
    stage.roles.received(task_id)
    with stream(stage.gw, f"/tasks/{task_id}/events") as events:
        assert ids_and_names(events) == first == [("1", "received"), ("2", "started"), ("9", "completed")]


def test_a_second_attempt_makes_no_event_and_is_listed(stage: Stage) -> None:
    task_id = submit(stage.gw)
    stage.roles.received(task_id)
    stage.roles.started(task_id, 1)
    stage.roles.started(task_id, 2)
    stage.roles.completed(task_id)
    with stream(stage.gw, f"/tasks/{task_id}/events") as events:
        assert [e for _, e in ids_and_names(events)] == ["received", "started", "completed"]
    assert [a["attempt"] for a in stage.gw.http.get(f"/tasks/{task_id}").json()["attempts"]] == [1, 2]


def test_a_task_from_kafka_has_a_stream_too(stage: Stage) -> None:
    task_id = new_id()
    stage.roles.run(task_id)
    with stream(stage.gw, f"/tasks/{task_id}/events") as events:
        assert [e for _, e in ids_and_names(events)] == ["received", "started", "completed"]


def test_the_stream_of_all_tasks_can_be_filtered(stage: Stage) -> None:
    failing, well = new_id(), new_id()
    with all_events(stage.gw, "?status=failed") as failures, all_events(stage.gw) as everything:
        stage.roles.run(well)
        stage.roles.received(failing)
        stage.roles.dead(failing)
        event = next(failures)
        assert (event["event"], event["data"]["id"], event["data"]["reason"]) == ("failed", failing, "failed")
        seen = [next(everything) for _ in range(6)]
    assert {(e["data"]["id"], e["event"]) for e in seen} == {
        (well, "received"),
        (well, "started"),
        (well, "completed"),
        (failing, "received"),
        (failing, "started"),
        (failing, "failed"),
    }
    assert all(len(e["id"]) < 2048 for e in seen)


def test_the_stream_of_all_tasks_resumes_on_another_gateway_from_every_place(stage: Stage, other: Gateway) -> None:
    ids = [new_id() for _ in range(6)]
    with all_events(stage.gw) as events:
        for n, task_id in enumerate(ids):
            if n % 3 == 0:  # the terminal event is read before the first
                stage.roles.completed(task_id)
                stage.roles.received(task_id)
            elif n % 3 == 1:
                stage.roles.received(task_id)
                stage.roles.started(task_id)
                stage.roles.progress(task_id, 0.5)
                stage.roles.completed(task_id)
            else:
                stage.roles.run(task_id)
        # received, started and completed of each; progress of the two in the middle, unless it is read after the end
        whole: list[dict[str, Any]] = []
        while sum(e["event"] != "progress" for e in whole) < 6 * 3:
            whole.append(next(events))
    for task_id in ids:
        order = [e["event"] for e in whole if e["data"]["id"] == task_id]
        assert order in (["received", "started", "completed"], ["received", "started", "progress", "completed"])
    for at in (0, 3, 8, 12, 16):
        # An earlier event that is sent along with a later one has the id before both, so both may come again.
        again = {id_and_name(e) for e in whole[: at + 1] if e["id"] == whole[at]["id"]}
        left = {id_and_name(e) for e in whole[at + 1 :]}
        # A gateway that reads progress after the end of its task does not send it: one may send it, the other not.
        due = {t for t in left if t[1] != "progress"}
        optional_progress = {(task_id, "progress") for n, task_id in enumerate(ids) if n % 3 == 1} - {
            id_and_name(e) for e in whole
        }
        found: list[tuple[str, str]] = []
        with all_events(other, last=whole[at]["id"]) as events:
            while not due <= set(found):
                found.append(id_and_name(next(events)))
        assert len(set(found)) == len(found)
        assert set(found) <= left | again | optional_progress


def id_and_name(event: dict[str, Any]) -> tuple[str, str]:
    return event["data"]["id"], event["event"]


def test_an_invalid_last_event_id_gives_a_reset_first(stage: Stage) -> None:
    with all_events(stage.gw, last="nonsense") as events:
        assert next(events)["event"] == "reset"
        task_id = new_id()
        stage.roles.received(task_id)
        assert next(events)["data"]["id"] == task_id


def test_a_result_is_served_whole_by_range_and_by_etag(stage: Stage) -> None:
    task_id, value = submit(stage.gw), b"0123456789" * 100_000
    stage.roles.started(task_id)
    with stream(stage.gw, f"/tasks/{task_id}/events", last="1") as events:
        assert next(events)["event"] == "started"
    none_yet = stage.gw.http.get(f"/tasks/{task_id}/result")
    assert (none_yet.status_code, none_yet.json()["type"], none_yet.json()["task_status"]) == (
        404,
        "/problems/no-result",
        "running",
    )
    stage.roles.completed(task_id, value, "application/octet-stream", ".bin")
    wait_for(stage.gw, task_id, "completed")
    path = f"/tasks/{task_id}/result"
    whole = stage.gw.http.get(path)
    etag = f'"{hashlib.sha256(value).hexdigest()}"'
    assert (whole.content, whole.headers["etag"], whole.headers["content-type"]) == (
        value,
        etag,
        "application/octet-stream",
    )
    assert whole.headers["content-security-policy"] == "sandbox"
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert whole.headers["content-disposition"] == f'attachment; filename="{task_id}.bin"'
    part = stage.gw.http.get(path, headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (
        206,
        b"0123456789",
        "bytes 10-19/1000000",
    )
    assert stage.gw.http.get(path, headers={"range": "bytes=-5"}).content == b"56789"
    assert stage.gw.http.get(path, headers={"range": "bytes=999990-"}).content == b"0123456789"
    beyond = stage.gw.http.get(path, headers={"range": "bytes=1000000-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */1000000")
    assert stage.gw.http.get(path, headers={"range": "bytes=0-4", "if-range": '"other"'}).content == value
    head = stage.gw.http.head(path)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "1000000", b"")
    assert stage.gw.http.get(path, headers={"if-none-match": etag}).status_code == 304


def test_json_is_shown_and_html_is_only_a_download(stage: Stage) -> None:
    for content_type, inline in (
        ("application/json", True),
        ("text/html", False),
        ("image/svg+xml", False),
        ("text/plain; charset=utf-8", True),
    ):
        task_id = submit(stage.gw)
        stage.roles.completed(task_id, b"x", content_type)
        wait_for(stage.gw, task_id, "completed")
        headers = stage.gw.http.get(f"/tasks/{task_id}/result").headers
        assert ("content-disposition" not in headers) is inline


def test_nothing_outside_the_results_root_is_ever_read(stage: Stage, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    root = stage.settings.results_root
    (root / "linked").symlink_to(tmp_path)
    for file in (
        "../secret",
        "linked/{id}.json",
        "demo/{id}.link",
        "/etc/passwd",
        ".headrace-root",
        "demo/../demo/{id}",
        "demo/{id}.dir",
    ):
        task_id = submit(stage.gw)
        (tmp_path / f"{task_id}.json").write_text("secret")
        (root / "demo").mkdir(exist_ok=True)
        (root / "demo" / f"{task_id}.link").symlink_to(secret)
        (root / "demo" / f"{task_id}.dir").mkdir()
        stage.roles.send(stage.roles.outcome(task_id).completed_event(file.format(id=task_id), 6, "0" * 64))
        wait_for(stage.gw, task_id, "completed")
        answer = stage.gw.http.get(f"/tasks/{task_id}/result")
        assert (answer.status_code, answer.json()["type"]) == (410, "/problems/result-missing")


def test_a_cancel_is_in_the_log_with_the_original_submission(stage: Stage) -> None:
    task_id = submit(stage.gw)
    # The storekeeper makes the outcome a dead letter; the DELETE waits for it.
    stage.roles.dead_later(task_id, Reason.CANCELLED)
    answer = stage.gw.http.delete(f"/tasks/{task_id}")
    assert (answer.status_code, answer.json()["id"]) == (202, task_id)
    [command] = [r for r in records_on(stage.settings, "tasks.control") if r.key == task_id.encode()]
    assert Cancel.decode(command) == Cancel(task_id)
    [record] = [r for r in records_on(stage.settings, "results") if r.key == task_id.encode()]
    outcome = Outcome.decode(record)
    assert (outcome.outcome, outcome.reason, outcome.value) == ("cancelled", Reason.CANCELLED, submission())
    assert outcome.source == replace(outcome.source, topic="tasks.normal")
    wait_for(stage.gw, task_id, "cancelled")
    assert stage.gw.http.delete(f"/tasks/{task_id}").status_code == 409


def test_an_unknown_task_is_404_everywhere(stage: Stage) -> None:
    for path in ("", "/events", "/result"):
        for task_id in (str(uuid.uuid4()), "nonsense", "..%2f.."):
            answer = stage.gw.http.get(f"/tasks/{task_id}{path}")
            assert answer.status_code == 404
            assert answer.headers["content-type"] == "application/problem+json"
    assert stage.gw.http.delete(f"/tasks/{uuid.uuid4()}").status_code == 404


def test_lists_are_filtered_and_paged_without_gaps(stage: Stage) -> None:
    directory = f"list-{uuid.uuid4().hex[:6]}"
    ids = []
    for _ in range(7):
        answer = stage.gw.http.post(
            "/tasks", content=submission(directory=directory), headers={"content-type": "application/json"}
        )
        ids.append(answer.json()["id"])
        stage.gw.http.get(f"/tasks/{ids[-1]}")
    query: dict[str, str] = {"directory": directory, "limit": "3", "status": "queued"}
    seen: list[str] = []
    while True:
        page = stage.gw.http.get("/tasks", params=query).json()
        seen += [t["id"] for t in page["items"]]
        if page["next"] is None:
            break
        query["cursor"] = page["next"]
    assert sorted(seen) == sorted(ids)
    assert stage.gw.http.get("/tasks", params={"directory": directory, "status": "failed"}).json()["items"] == []
    for bad in ("limit=0", "limit=x", "status=done", "since=yesterday", "cursor=%21"):
        assert stage.gw.http.get(f"/tasks?{bad}").json()["type"] == "/problems/bad-request"


def test_a_restarted_gateway_goes_on_where_it_stopped(kafka_settings: Settings, topics: str) -> None:
    roles = OtherRoles(kafka_settings)
    roles.announce()
    with gateway(kafka_settings) as first:
        before = submit(first)
        roles.run(before)
        wait_for(first, before, "completed")
    while_away = new_id()
    roles.run(while_away)
    with gateway(kafka_settings) as again:
        assert again.http.get(f"/tasks/{before}").json()["status"] == "completed"
        wait_for(again, while_away, "completed")
        folded = {
            m.labels["topic"]: m.value
            for f in again.dependencies.metrics.folded.collect()
            for m in f.samples
            if m.name.endswith("_total")
        }
        assert folded["lifecycle.completed"] == 1  # the one it had not read before
    roles.close()


def test_dead_letters_are_listed_and_redriven_once(stage: Stage) -> None:
    kind = f"dead-{uuid.uuid4().hex[:6]}"
    task_id = new_id()
    stage.roles.send(
        replace(
            stage.roles.outcome(task_id), outcome="failed", name=kind, value=submission(), reason=Reason.FAILED
        ).dead_letter()
    )
    wait_for(stage.gw, task_id, "failed")
    [item] = stage.gw.http.get("/dead", params={"name": kind, "reason": "failed"}).json()["items"]
    assert item["id"] == task_id
    dry = stage.gw.http.post("/dead/redrive", json={"name": kind, "dry_run": True}).json()
    assert (dry["matched"], dry["would_redrive"]) == (1, 1)
    done = stage.gw.http.post("/dead/redrive", json={"name": kind, "payload": {"upper_bound": 5}})
    assert (done.status_code, done.json()["redriven"]) == (202, 1)
    new = stage.gw.http.get(f"/tasks/{done.json()['items'][0]['id']}").json()
    assert (new["redrive_of"], new["status"], new["name"]) == (task_id, "queued", "prime")
    assert stage.gw.http.post("/dead/redrive", json={"name": kind}).json()["redriven"] == 0


def test_kinds_and_nodes_are_as_announced(stage: Stage) -> None:
    stage.roles.announce()
    submit(stage.gw)  # waits until the gateway has read the announcement
    [kind] = [k for k in stage.gw.http.get("/kinds").json()["items"] if k["name"] == "prime"]
    assert (kind["live"], kind["schema"]["required"]) == (["node-1"], ["upper_bound"])
    [node] = stage.gw.http.get("/nodes").json()["items"]
    assert (node["node"], node["slots"], node["state"]) == ("node-1", 2, "alive")


def test_the_page_and_its_files_are_served_under_a_strict_policy(stage: Stage) -> None:
    page = stage.gw.http.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "<script>" not in page.text
    assert stage.gw.http.get("/page/main.js").headers["content-type"].startswith("text/javascript")
    assert stage.gw.http.get("/page/routes.py").status_code == 404


def test_garbage_on_every_topic_is_counted_and_stops_nothing(stage: Stage) -> None:
    for topic in (*TOPICS, "kinds", "nodes"):
        key = uuid.uuid4().hex.encode()
        bad = [
            Outgoing(topic, b"\xff", b"\xff"),
            Outgoing(topic, key, b"{", (("attempt", b"\xff"),)),
            Outgoing(topic, key, b"[]"),
        ]
        stage.roles.send(*bad)
    task_id = submit(stage.gw)
    stage.roles.run(task_id)
    wait_for(stage.gw, task_id, "completed")
    assert 'headrace_view_undecodable_total{topic="lifecycle.completed"}' in stage.gw.http.get("/metrics").text
    assert stage.gw.http.get("/readyz").status_code == 200


def test_without_kafka_a_gateway_says_so_within_five_seconds(tmp_path: Path) -> None:
    settings = Settings(kafka=f"127.0.0.1:{free_port()}", data=tmp_path)
    with gateway(settings, until_ready=False) as gw:
        assert gw.http.get("/healthz").status_code == 200
        assert gw.http.get("/readyz").status_code == 503
        answer = gw.http.post("/tasks", content=submission(), headers={"content-type": "application/json"})
        assert answer.elapsed.total_seconds() < 5
        assert (answer.status_code, answer.json()["status"], "retry-after" in answer.headers) == (503, 503, True)
        lookup = gw.http.get(f"/tasks/{uuid.uuid4()}")
        assert (lookup.status_code, lookup.elapsed.total_seconds() < 5) == (503, True)


def wait_for(gw: Gateway, task_id: str, status: str) -> httpx.Response:
    """Waits through the task's event stream, which ends with the task."""
    with stream(gw, f"/tasks/{task_id}/events") as events:
        assert list(events)[-1]["event"] == status
    return gw.http.get(f"/tasks/{task_id}")
