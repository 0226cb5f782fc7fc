"""What somebody waits for is read at once, although the projector reads in batches: here they take half a minute."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.view import projector
from gateway.view.task_events import rfc3339
from headrace.contract.ids import new_id
from headrace.contract.states import Reason
from headrace.settings import Settings
from tests.rigs.gateway import BODY, Gateway, OtherRoles, events_of, gateway, records_on

SLOW = {"fetch.min.bytes": 50_000_000, "fetch.max.bytes": 60_000_000, "fetch.wait.max.ms": 30_000}
SOON_S = 15.0  # half of a batch


@pytest.fixture
def gw(kafka_settings: Settings, topics: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setattr(projector, "_IN_BATCHES", SLOW)
    (kafka_settings.results_root).mkdir(parents=True)
    with gateway(kafka_settings) as running:
        yield running


@pytest.fixture
def roles(kafka_settings: Settings, gw: Gateway) -> Iterator[OtherRoles]:
    others = OtherRoles(kafka_settings)
    others.announce()
    deadline = time.monotonic() + SOON_S
    while not gw.dependencies.projector._in_batches or not gw.http.get("/kinds").json():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield others
    others.close()


def test_readers_and_listeners_are_told_at_once(gw: Gateway, roles: OtherRoles) -> None:
    began = time.monotonic()
    answer = gw.http.post("/tasks", json=BODY)
    assert answer.status_code == 202, answer.text
    task_id = answer.json()["id"]
    queued = gw.http.get(f"/tasks/{task_id}").json()
    assert (queued["status"], queued["name"], queued["directory"]) == ("queued", "prime", "demo")
    [record] = [r for r in records_on(roles.settings, "tasks.normal") if r.key == task_id.encode()]
    assert queued["received_at"] == rfc3339(record.timestamp_ms)
    assert queued["source"] == str(record.source)
    one = httpx.stream("GET", f"{gw.url}/tasks/{task_id}/events", timeout=60)
    every = httpx.stream("GET", f"{gw.url}/events", timeout=60)
    with one as first, every as second:
        streams = [events_of(first), events_of(second)]
        assert "comment" in next(streams[1])
        for name, send in (("received", roles.received), ("started", roles.started), ("completed", roles.completed)):
            send(task_id)
            assert [next(s)["event"] for s in streams] == [name, name]
    assert time.monotonic() - began < SOON_S


def test_look_ups_and_lists_answer_as_of_now(gw: Gateway, roles: OtherRoles) -> None:
    began = time.monotonic()
    failing, running, cancelled = (new_id() for _ in range(3))
    for task_id in (failing, running, cancelled):
        roles.received(task_id)
        assert gw.http.get(f"/tasks/{task_id}").json()["status"] == "queued"
    roles.dead(failing)
    assert [t["id"] for t in gw.http.get("/dead").json()["items"]] == [failing]
    roles.started(running)
    assert [t["id"] for t in gw.http.get("/tasks?status=running").json()["items"]] == [running]
    roles.completed(running)
    assert gw.http.get(f"/tasks/{running}/result").content == b"[2,3,5,7]"
    roles.dead_later(cancelled, Reason.CANCELLED)
    assert gw.http.delete(f"/tasks/{cancelled}").json()["status"] == "cancelled"
    keyed = [gw.http.post("/tasks", json=BODY, headers={"idempotency-key": "one"}).json()["id"] for _ in range(2)]
    assert keyed[0] == keyed[1]
    assert time.monotonic() - began < SOON_S
