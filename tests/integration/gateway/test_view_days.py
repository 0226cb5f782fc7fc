"""A gateway that has forgotten tasks some days after their end: what it answers for them, and what stays right."""

import time

from gateway.view.pruning import START
from gateway.view.store import StatusStore
from headrace.contract.ids import new_id
from headrace.settings import Settings
from tests.rigs.gateway import Gateway, OtherRoles, events_of, gateway, submission

PATIENCE_S = 60.0


def submit(gw: Gateway, key: str = "") -> str:
    headers = {"content-type": "application/json"} | ({"idempotency-key": key} if key else {})
    answer = gw.http.post("/tasks", content=submission(), headers=headers)
    assert answer.status_code == 202, answer.text
    found: str = answer.json()["id"]
    return found


def until_status(gw: Gateway, task_id: str, status: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while gw.http.get(f"/tasks/{task_id}").json()["status"] != status:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def forget_what_ended(settings: Settings, name: str) -> None:
    """As the gateway does after so many days."""
    store = StatusStore(settings.data / f"{name}.sqlite")
    assert store.prune_tasks(int(time.time() * 1000) + 86_400_000, START) is None
    store.close()


def test_a_forgotten_task_is_gone_in_words_and_never_comes_back_by_half(kafka_settings: Settings, topics: str) -> None:
    roles = OtherRoles(kafka_settings)
    roles.announce()
    with gateway(kafka_settings) as gw:
        with gw.http.stream("GET", "/events") as response:
            begin = response.headers["last-event-id"]
        old, dead, live = submit(gw, "k-1"), submit(gw), submit(gw)
        roles.run(old)
        roles.dead(dead)
        roles.started(live)
        until_status(gw, old, "completed")
        until_status(gw, dead, "failed")
        until_status(gw, live, "running")
    forget_what_ended(kafka_settings, "gateway")
    with gateway(kafka_settings) as gw:
        for path in ("", "/events", "/result", "/attempts/1/log"):
            answer = gw.http.get(f"/tasks/{old}{path}")
            assert (answer.status_code, answer.json()["type"]) == (410, "/problems/task-forgotten"), path
        assert gw.http.delete(f"/tasks/{old}").status_code == 410
        assert gw.http.get(f"/tasks/{new_id()}").status_code == 404
        [item] = gw.http.post("/dead/redrive", json={"ids": [dead]}).json()["items"]
        assert item["type"] == "/problems/task-forgotten"
        assert submit(gw, "k-1") not in (old, dead, live), "the key stands for a new task, under an id of its own"
        roles.started(old)  # a repeat that comes late
        roles.completed(live)
        until_status(gw, live, "completed")
        assert gw.http.get(f"/tasks/{old}").status_code == 410
        assert old not in {t["id"] for t in gw.http.get("/tasks").json()["items"]}
        with gw.http.stream("GET", "/events", headers={"last-event-id": begin}) as response:
            assert next(e for e in events_of(response) if "event" in e)["event"] == "reset"
    roles.close()
