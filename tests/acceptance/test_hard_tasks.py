"""Tasks that fail and tasks that are cancelled, over the whole product: every reader sees the same end."""

import time
from collections import Counter
from pathlib import Path

import orjson
from click.testing import CliRunner

from headrace.cli.main import cli
from tests.acceptance.conftest import Client, Log, headers, until

RACES = 40


def test_the_log_of_an_attempt_is_served_even_when_its_process_was_killed(client: Client) -> None:
    task_id = client.submit("fragile", {"how": "kill", "attempts": 1})
    assert client.wait(task_id)["status"] == "completed"
    assert client.http.get(f"/tasks/{task_id}/attempts/1/log").text == "attempt 1 goes wrong: kill\n"
    assert client.http.get(f"/tasks/{task_id}/attempts/2/log").json()["type"] == "/problems/no-log"
    shown = CliRunner().invoke(cli, ["log", task_id, "-a", "1", "--http", client.url.removeprefix("http://")])
    assert (shown.exit_code, shown.output) == (0, "attempt 1 goes wrong: kill\n")


def test_a_poison_task_is_in_the_dead_letters_within_a_second_of_its_last_death(client: Client, log: Log) -> None:
    late_ms = []
    for _ in range(5):
        task_id = client.submit("fragile", {"how": "kill", "attempts": 100}, max_attempts=1)
        client.wait(task_id)
        dead = log.dead(task_id)
        ledger = orjson.loads(headers(dead)["attempts"])
        assert [f["cause"] for f in ledger] == ["process-death"]
        late_ms.append(dead.timestamp()[1] - ledger[-1]["ended_ms"])
    print(f"in the dead letters {late_ms} ms after their last deaths")
    assert min(late_ms) >= 0
    assert sorted(late_ms)[2] <= 1000  # the middle one: other tests share the machine


def test_a_running_task_that_is_cancelled_ends_its_process_and_stays_cancelled(client: Client, log: Log) -> None:
    task_id = client.submit("fragile", {"attempts": 0, "seconds": 3600.0})
    running = lambda: [r["id"] for n in client.http.get("/nodes").json()["items"] for r in n["running"]]  # noqa: E731
    until(lambda: task_id in running(), "its node reports it")  # otherwise the check after the cancel proves nothing
    asked = time.monotonic()
    answer = client.http.delete(f"/tasks/{task_id}")
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
    until(lambda: task_id not in running(), "its slot is free")
    print(f"gone from its node's heartbeat {time.monotonic() - asked:.2f} s after the request")
    assert client.task(task_id)["status"] == "cancelled"
    assert [headers(m)["reason"] for m in log.read("tasks.dead") if m.key() == task_id.encode()] == ["cancelled"]


def test_a_cancel_that_races_with_completion_has_one_winner_for_every_reader(
    client: Client, log: Log, results: Path
) -> None:
    wait_s, ends = 0.02, {}
    for _ in range(RACES):
        task_id = client.submit("fragile", {"attempts": 0})
        time.sleep(wait_s)  # adjusted each time, so that the cancel comes as the task completes
        answer = client.http.delete(f"/tasks/{task_id}")
        assert answer.status_code in (202, 409), answer.text
        won = answer.json()["status"] == "cancelled" if answer.status_code == 202 else False
        ends[task_id] = "cancelled" if won else "completed"
        wait_s = min(2.0, wait_s * 1.3 + 0.001) if won else wait_s / 1.3
    assert len(Counter(ends.values())) == 2, ends.values()  # each has won at least once: there was a race
    for task_id, end in ends.items():
        assert client.events(task_id)[-1].event == end
        assert client.task(task_id)["status"] == end
        assert client.http.get(f"/tasks/{task_id}/result").status_code == (200 if end == "completed" else 404)
        assert (results / "demo" / f"{task_id}.json").exists() == (end == "completed")
    completed, dead = Counter(log.ids("lifecycle.completed")), Counter(m.key().decode() for m in log.read("tasks.dead"))
    assert {i: (completed[i], dead[i]) for i in ends} == {
        i: (1, 0) if end == "completed" else (0, 1) for i, end in ends.items()
    }
