"""A gateway that has not read the whole log: it says how far it has come, gives no partial list, and tells listeners of
now nothing that was."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import httpx

from headrace.contract.ids import new_id
from headrace.settings import Settings
from tests.rigs.gateway import OtherRoles, events_of, gateway

PATIENCE_S = 60.0


def test_until_it_has_read_the_log_it_is_not_ready_and_gives_no_partial_list(
    kafka_settings: Settings, topics: str, tmp_path: Path
) -> None:
    settings, roles = kafka_settings, OtherRoles(kafka_settings)
    roles.announce()
    with gateway(settings, "late"):
        pass  # its file exists, and is this cluster's
    old = [new_id() for _ in range(20)]
    for task_id in old:
        roles.run(task_id)
    with closing(sqlite3.connect(settings.data / "late.sqlite", isolation_level=None)) as disk:
        disk.execute("BEGIN IMMEDIATE")  # the view can write nothing, as on a slow disk
        with gateway(settings, "late", until_ready=False) as gw:
            until_reads(gw.http)
            for path in ("/tasks", "/dead"):
                answer = gw.http.get(path)
                assert (answer.status_code, answer.json()["type"]) == (503, "/problems/catching-up"), answer.text
            assert gw.http.post("/dead/redrive", json={}).json()["type"] == "/problems/catching-up"
            assert gw.http.get("/healthz").status_code == 200
            with gw.http.stream("GET", "/events") as response:
                found = events_of(response)
                assert "comment" in next(found)
                new = new_id()
                roles.run(new)
                disk.execute("ROLLBACK")
                event = next(e for e in found if "event" in e)
                assert event["data"]["id"] == new, "from now on, not what was before"
            until_ready(gw.http)
            listed = gw.http.get("/tasks?limit=100").json()["items"]
            assert {t["id"] for t in listed} == {*old, new}
    roles.close()


def until_reads(http: httpx.Client) -> None:
    """Until `/readyz` names the records to go."""
    deadline = time.monotonic() + PATIENCE_S
    while "status view: reads the log: 0 %, " not in (answer := http.get("/readyz")).text:
        assert answer.status_code == 503
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.02)


def until_ready(http: httpx.Client) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while (answer := http.get("/readyz")).status_code != 200:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.05)
