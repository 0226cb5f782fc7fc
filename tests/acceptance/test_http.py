"""Tasks over HTTP from submission to result, as a user with curl sees them."""

import hashlib
import json
import threading
import uuid
from pathlib import Path

import httpx
import pytest

from headrace.client import tls_context
from tests.acceptance.conftest import Client, Log, read_events, until


def test_a_submission_is_acknowledged_with_its_links(client: Client) -> None:
    body = {"name": "prime", "payload": {"upper_bound": 10}, "directory": "demo/links"}
    answer = client.http.post("/tasks", json=body)
    assert answer.status_code == 202
    accepted = answer.json()
    task_id = accepted["id"]
    assert str(uuid.UUID(task_id)) == task_id
    assert accepted == {
        "id": task_id,
        "name": "prime",
        "directory": "demo/links",
        "status": "queued",
        "links": {
            "self": f"/tasks/{task_id}",
            "events": f"/tasks/{task_id}/events",
            "result": f"/tasks/{task_id}/result",
        },
    }
    assert answer.headers["location"] == f"/tasks/{task_id}"


def test_primes_to_100000_are_computed_stored_announced_and_served(client: Client, results: Path) -> None:
    task_id = client.submit(payload={"upper_bound": 100_000})
    events = client.events(task_id)
    assert [e.event for e in events if e.event != "progress"] == ["received", "started", "completed"]
    for event in events:
        assert {"id", "name", "directory", "status", "at"} <= event.data.keys()
        assert (event.data["id"], event.data["name"], event.data["directory"]) == (task_id, "prime", "demo")
    stored = (results / "demo" / f"{task_id}.json").read_bytes()
    primes = json.loads(stored)
    assert (len(primes), primes[0], primes[-1]) == (9592, 2, 99991)
    answer = client.http.get(f"/tasks/{task_id}/result")
    assert answer.content == stored
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.headers["etag"].strip('"') == hashlib.sha256(stored).hexdigest()
    task = client.task(task_id)
    assert task["status"] == "completed"
    assert task["result"]["bytes"] == len(stored)
    assert task["result"]["sha256"] == hashlib.sha256(stored).hexdigest()
    assert task["received_at"] <= task["started_at"] <= task["ended_at"]
    assert [a["attempt"] for a in task["attempts"]] == [1]


def test_a_result_is_served_in_ranges_and_never_sniffed(client: Client) -> None:
    task_id = client.submit("compression", {"text": "water " * 1000, "algorithm": "gzip"})
    assert client.wait(task_id)["status"] == "completed"
    whole = client.http.get(f"/tasks/{task_id}/result")
    assert whole.content[:2] == b"\x1f\x8b"
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in whole.headers["content-security-policy"]
    assert whole.headers["content-disposition"].startswith("attachment")
    part = client.http.get(f"/tasks/{task_id}/result", headers={"Range": "bytes=2-5"})
    assert (part.status_code, part.content) == (206, whole.content[2:6])
    head = client.http.head(f"/tasks/{task_id}/result")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(whole.content)))
    same = client.http.get(f"/tasks/{task_id}/result", headers={"If-None-Match": whole.headers["etag"]})
    assert same.status_code == 304


def test_an_event_stream_resumes_after_the_last_event_and_ends_with_204(client: Client) -> None:
    task_id = client.submit("fragile", {"attempts": 0, "seconds": 0.5})
    events = client.events(task_id)
    ids = [e.id for e in events]
    assert len(set(ids)) == len(ids)
    for seen in range(1, len(events)):
        resumed = [e.id for e in client.events(task_id, ids[seen - 1])]
        assert [i for i in resumed if i in ids] == ids[seen:]
        # Topics are read in parallel: the live stream may have ended before the last progress was read.
        assert all(i.startswith("p") for i in resumed if i not in ids)
    answer = client.http.get(f"/tasks/{task_id}/events", headers={"Last-Event-ID": ids[-1]})
    assert answer.status_code == 204


def test_progress_events_come_between_start_and_end(client: Client) -> None:
    task_id = client.submit("fragile", {"attempts": 0, "seconds": 1})
    names = [e.event for e in client.events(task_id)]
    assert names[:2] == ["received", "started"]
    assert names[-1] == "completed"
    assert "progress" in names[2:-1]


def test_a_killed_process_is_replayed_without_an_event(client: Client, log: Log) -> None:
    task_id = client.submit("fragile", {"how": "kill", "attempts": 1})
    names = [e.event for e in client.events(task_id) if e.event != "progress"]
    assert names == ["received", "started", "completed"]
    attempts = client.task(task_id)["attempts"]
    assert [a["attempt"] for a in attempts] == [1, 2]
    assert attempts[0]["cause"] == "process-death"
    assert [m for m in log.read("tasks.high") if m.key() == task_id.encode()]


def test_a_task_that_always_kills_its_process_ends_as_crashed(client: Client, log: Log) -> None:
    task_id = client.submit("fragile", {"how": "kill", "attempts": 100})
    assert client.events(task_id)[-1].event == "failed"
    task = client.task(task_id)
    assert task["status"] == "failed"
    assert [a["cause"] for a in task["attempts"]] == ["process-death"] * 3
    dead = dict(log.dead(task_id).headers())
    assert dead["reason"] == b"crashed"
    assert json.loads(log.dead(task_id).value())["name"] == "fragile"


def test_an_error_is_retried_and_shown_with_its_traceback(client: Client) -> None:
    task_id = client.submit("fragile", {"how": "raise", "attempts": 100}, max_attempts=2)
    task = client.wait(task_id)
    assert task["status"] == "failed"
    assert [a["cause"] for a in task["attempts"]] == ["error", "error"]
    assert "RuntimeError" in task["attempts"][0]["detail"]
    assert "RuntimeError" in json.dumps(task["error"])


def test_a_task_past_its_time_limit_is_stopped(client: Client, log: Log) -> None:
    task_id = client.submit("fragile", {"how": "hang", "attempts": 100}, timeout_s=0.5, max_attempts=1)
    assert client.wait(task_id)["status"] == "failed"
    assert dict(log.dead(task_id).headers())["reason"] == b"timeout"


def directories(results: Path) -> list[Path]:
    """All directories below the data directory, except the scratch directories of attempts."""
    tops = [p for p in results.parent.iterdir() if p.name != "scratch"]
    return sorted(p for top in tops for p in (top, *top.rglob("*")) if p.is_dir())


@pytest.mark.parametrize(
    "directory", ["../up", "/etc", "a/../b", "a//b", ".hidden", "a/%2e%2e", "a\x00b", "a/" * 9, "x" * 201, "", "é"]
)
def test_a_directory_outside_the_rules_is_refused_and_nothing_is_written(
    client: Client, results: Path, directory: str
) -> None:
    before = directories(results)
    answer = client.http.post("/tasks", json={"name": "prime", "payload": {"upper_bound": 10}, "directory": directory})
    assert answer.status_code == 422
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert answer.json()["errors"][0]["pointer"] == "/directory"
    assert directories(results) == before


def test_invalid_input_is_answered_with_what_to_change(client: Client) -> None:
    post = client.http.post
    good = {"name": "prime", "payload": {"upper_bound": 10}, "directory": "demo"}
    unknown = post("/tasks", json=good | {"name": "no-such-kind"})
    assert unknown.status_code == 422
    assert "prime" in unknown.text
    wrong = post("/tasks", json=good | {"payload": {"upper_bound": "ten"}})
    assert wrong.status_code == 422
    assert wrong.json()["errors"][0]["pointer"] == "/payload/upper_bound"
    assert post("/tasks", content=b"{nope", headers={"Content-Type": "application/json"}).status_code == 400
    assert post("/tasks", content=json.dumps(good), headers={"Content-Type": "text/plain"}).status_code == 415
    large = {"name": "compression", "payload": {"text": "x" * 900_001, "algorithm": "gzip"}, "directory": "demo"}
    assert post("/tasks", json=large).status_code == 413
    missing = client.http.get(f"/tasks/{uuid.uuid4()}")
    assert missing.status_code == 404
    for answer in (unknown, wrong, missing):
        assert answer.headers["content-type"].startswith("application/problem+json")
        assert answer.json()["type"]


def test_a_task_that_has_been_accepted_is_never_unknown(client: Client) -> None:
    for _ in range(30):
        client.task(client.submit())


def test_a_batch_answers_each_line_in_its_order(client: Client) -> None:
    good = {"name": "prime", "payload": {"upper_bound": 10}, "directory": "batch"}
    lines = [good, good | {"name": "no-such-kind"}, good]
    answer = client.http.post(
        "/tasks/batch",
        content="\n".join(map(json.dumps, lines)) + "\n{nope\n",
        headers={"Content-Type": "application/x-ndjson"},
    )
    answers = [json.loads(line) for line in answer.text.splitlines()]
    assert [("id" in s, "error" in s) for s in answers] == [(True, False), (False, True), (True, False), (False, True)]
    for s in (answers[0], answers[2]):
        assert client.wait(s["id"])["status"] == "completed"


def test_a_thousand_submissions_from_twenty_clients_complete_once_each(client: Client, log: Log) -> None:
    ids: list[str] = []
    lock = threading.Lock()

    def submit_fifty() -> None:
        one = Client(client.url)
        for _ in range(50):
            task_id = one.submit(directory="thousand")
            with lock:
                ids.append(task_id)
        one.http.close()

    with (
        httpx.Client(base_url=client.url, timeout=60, verify=tls_context()) as listener,
        listener.stream("GET", "/events", params={"directory": "thousand"}) as stream,
    ):
        threads = [threading.Thread(target=submit_fifty) for _ in range(20)]
        for thread in threads:
            thread.start()
        completed: list[str] = []
        for event in read_events(stream):
            if event.event in ("completed", "failed"):
                completed.append(event.data["id"])
            if len(completed) == 1000:
                break
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 1000
    assert sorted(completed) == sorted(ids)
    for topic in ("lifecycle.received", "lifecycle.started", "lifecycle.completed"):

        def all_ids(topic: str = topic) -> list[str] | None:
            found = [i for i in log.ids(topic) if i in set(ids)]
            return found if len(found) >= 1000 else None  # the receiver may be later than the storekeeper

        assert sorted(until(all_ids, f"1,000 ids in {topic}")) == sorted(ids), topic


def test_kinds_nodes_and_health_are_served(client: Client) -> None:
    kinds = {k["name"]: k for k in client.http.get("/kinds").json()["items"]}
    assert {"prime", "compression", "conversion", "fragile"} <= kinds.keys()
    assert kinds["prime"]["schema"]["properties"]["upper_bound"]["type"] == "integer"
    assert kinds["prime"]["live"]
    assert client.http.get("/nodes").json()["items"][0]["slots"] == 2
    assert client.http.get("/healthz").status_code == 200
    assert client.http.get("/readyz").status_code == 200
    assert "# TYPE" in client.http.get("/metrics").text


def test_a_page_of_another_site_cannot_submit(client: Client) -> None:
    body = {"name": "prime", "payload": {"upper_bound": 10}, "directory": "demo"}
    assert client.http.post("/tasks", json=body, headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.http.get("/tasks", headers={"Host": "evil.example"}).status_code == 403


def test_a_queued_task_that_is_cancelled_never_starts(client: Client, log: Log) -> None:
    blockers = [client.submit("fragile", {"attempts": 0, "seconds": 2}) for _ in range(2)]
    task_id = client.submit("fragile", {"attempts": 0, "seconds": 2})
    assert client.http.delete(f"/tasks/{task_id}").status_code == 202
    assert client.wait(task_id)["status"] == "cancelled"
    assert client.http.delete(f"/tasks/{task_id}").status_code == 409
    for blocker in blockers:
        assert client.wait(blocker)["status"] == "completed"
    assert task_id not in log.ids("lifecycle.started")
