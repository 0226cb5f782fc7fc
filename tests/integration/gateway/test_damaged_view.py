"""The status view's file is damaged while the gateway serves, or cannot be written: healed, waited for, and said."""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from gateway.main import _open_store
from headrace.contract.ids import new_id
from headrace.settings import Settings
from tests.rigs.gateway import OtherRoles, events_of, gateway
from tests.rigs.sqlite_files import flip_pages, truncate

PATIENCE_S = 60.0


@pytest.mark.parametrize("damage", [flip_pages, truncate])
def test_a_damaged_view_is_made_anew_and_no_stream_misses_or_repeats_anything(
    kafka_settings: Settings, topics: str, damage: Callable[[Path], None]
) -> None:
    roles = OtherRoles(kafka_settings)
    roles.announce()
    old = [new_id() for _ in range(100)]
    with gateway(kafka_settings, "healed") as gw, gw.http.stream("GET", "/events") as response:
        events = events_of(response)
        assert "comment" in next(events)
        for task_id in old:
            roles.run(task_id)
        had = [(e["data"]["id"], e["event"]) for e in named(events, len(old) * 3)]
        damage(kafka_settings.data / "healed.sqlite")
        new = new_id()
        roles.run(new)
        had += [(e["data"]["id"], e["event"]) for e in named(events, 3)]
        assert len(set(had)) == len(had), "nothing twice"
        assert {task_id for task_id, _ in had[-3:]} == {new}, "nothing of what was before"
        wait_until(lambda: rebuilds(gw.http) == 1, lambda: gw.http.get("/readyz").text)
        wait_until(lambda: gw.http.get("/readyz").status_code == 200, lambda: gw.http.get("/readyz").text)
        listed = gw.http.get("/tasks?limit=1000").json()["items"]
        assert {t["id"] for t in listed} == {*old, new}
    roles.close()


def test_damage_that_a_request_meets_is_a_503_in_words_and_heals(kafka_settings: Settings, topics: str) -> None:
    """The view's own thread has nothing to do, and would not notice."""
    roles, task_id = OtherRoles(kafka_settings), new_id()
    roles.announce()
    with gateway(kafka_settings, "asked") as gw:
        roles.run(task_id)
        wait_until(lambda: gw.http.get(f"/tasks/{task_id}").status_code == 200, lambda: "the task is not known")
        flip_pages(kafka_settings.data / "asked.sqlite")
        answers: list[httpx.Response] = []

        def healed() -> bool:
            answers.append(gw.http.get("/tasks"))
            return rebuilds(gw.http) == 1 and answers[-1].status_code == 200

        wait_until(healed, lambda: answers[-1].text)
        broken = [a for a in answers if a.status_code != 200]
        assert {a.json()["type"] for a in broken} == {"/problems/catching-up"}
        assert "its file is damaged, and is made anew" in broken[0].json()["detail"]
        assert [t["id"] for t in answers[-1].json()["items"]] == [task_id]
    roles.close()


def test_a_full_disk_is_waited_for_in_words_and_nothing_is_made_anew(kafka_settings: Settings, topics: str) -> None:
    roles = OtherRoles(kafka_settings)
    roles.announce()
    first, more = new_id(), [new_id() for _ in range(50)]
    with gateway(kafka_settings, "full") as gw:
        roles.run(first)
        wait_until(lambda: gw.http.get(f"/tasks/{first}").status_code == 200, lambda: "the task is not known")
        writer = gw.dependencies.store._writer
        pages = writer.execute("PRAGMA page_count").fetchone()[0]
        writer.execute(f"PRAGMA max_page_count = {pages}")
        for task_id in more:
            roles.run(task_id)
        wait_until(
            lambda: "the disk is full: make room on it" in gw.http.get("/readyz").text,
            lambda: gw.http.get("/readyz").text,
        )
        writer.execute("PRAGMA max_page_count = 1000000")
        for task_id in more:
            wait_until(lambda i=task_id: status(gw.http, i) == "completed", lambda i=task_id: status(gw.http, i))  # type: ignore[misc]
        wait_until(lambda: gw.http.get("/readyz").status_code == 200, lambda: gw.http.get("/readyz").text)
        assert rebuilds(gw.http) == 0
    roles.close()


def test_a_gateway_waits_for_a_file_that_another_process_has_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gateway.view.database._LOCKED_S", 0.01)
    path = tmp_path / "status.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr("gateway.main.time.sleep", lambda _: other.close())
        _open_store(path).close()
    assert "another process has locked it: end that process" in caplog.text


def named(events: object, count: int) -> list[dict[str, object]]:
    """The next `count` events, without comments."""
    found: list[dict[str, object]] = []
    for event in events:  # type: ignore[attr-defined]
        if "event" in event:
            found.append(event)
        if len(found) == count:
            return found
    raise AssertionError(f"the stream ended after {len(found)} of {count} events")


def rebuilds(http: httpx.Client) -> float:
    [line] = [x for x in http.get("/metrics").text.splitlines() if x.startswith("headrace_file_rebuilds_total{")]
    return float(line.rsplit(" ", 1)[1])


def status(http: httpx.Client, task_id: str) -> str:
    answer = http.get(f"/tasks/{task_id}")
    return str(answer.json()["status"]) if answer.status_code == 200 else answer.text


def wait_until(condition: Callable[[], bool], told: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, told()
        time.sleep(0.02)
