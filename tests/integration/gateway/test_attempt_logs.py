"""The logs of attempts, as the gateway serves them."""

import os
import time
import uuid

import pytest

from headrace.storage.attempt_log import LOG_BYTES, keep_log, log_file
from headrace.storage.old_logs import remove_old_logs
from tests.rigs.gateway import Stage


@pytest.fixture
def task_id(stage: Stage) -> str:
    """A task with two attempts."""
    found = str(uuid.uuid4())
    stage.roles.received(found)
    for attempt in (1, 2):
        stage.roles.started(found, attempt)
    return found


def test_each_attempts_log_is_served_as_text_that_no_browser_runs(stage: Stage, task_id: str) -> None:
    for attempt in (1, 2):
        keep_log(stage.settings.results_root, task_id, attempt, f"<script>attempt {attempt}</script>\xff".encode())
    for attempt in (1, 2):
        answer = stage.gw.http.get(f"/tasks/{task_id}/attempts/{attempt}/log")
        assert answer.status_code == 200
        assert answer.text == f"<script>attempt {attempt}</script>\xff"
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "sandbox"
    head = stage.gw.http.head(f"/tasks/{task_id}/attempts/1/log")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("attempt", ["1", "7", "0", "-1", "x", "..", "1" * 5000, "%00"])
def test_a_missing_log_is_a_404_problem(stage: Stage, task_id: str, attempt: str) -> None:
    answer = stage.gw.http.get(f"/tasks/{task_id}/attempts/{attempt}/log")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_log_that_was_removed_for_its_age_is_a_404_that_names_the_setting(stage: Stage, task_id: str) -> None:
    keep_log(stage.settings.results_root, task_id, 1, b"printed")
    assert stage.gw.http.get(f"/tasks/{task_id}/attempts/1/log").status_code == 200
    os.utime(log_file(stage.settings.results_root, task_id, 1), (time.time() - 2 * 86_400,) * 2)
    assert sum(remove_old_logs(stage.settings.results_root, time.time() - 86_400)) == 1
    answer = stage.gw.http.get(f"/tasks/{task_id}/attempts/1/log")
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/no-log")
    assert "HEADRACE_LOG_DAYS" in answer.json()["detail"]


def test_the_log_of_an_unknown_task_is_404(stage: Stage) -> None:
    nobody = str(uuid.uuid4())
    keep_log(stage.settings.results_root, nobody, 1, b"there")
    answer = stage.gw.http.get(f"/tasks/{nobody}/attempts/1/log")
    assert answer.json()["type"] == "/problems/no-such-task"


def test_a_symlink_at_the_path_of_a_log_is_not_followed(stage: Stage, task_id: str) -> None:
    secret = stage.settings.data / "secret"
    secret.write_text("not for you")
    place = log_file(stage.settings.results_root, task_id, 1)
    place.parent.mkdir(parents=True)
    place.symlink_to(secret)
    assert stage.gw.http.get(f"/tasks/{task_id}/attempts/1/log").json()["type"] == "/problems/no-log"


def test_at_most_the_last_256_kib_are_served(stage: Stage, task_id: str) -> None:
    keep_log(stage.settings.results_root, task_id, 1, b"")
    log_file(stage.settings.results_root, task_id, 1).write_bytes(b"x" * LOG_BYTES + b"the end")
    served = stage.gw.http.get(f"/tasks/{task_id}/attempts/1/log").content
    assert len(served) == LOG_BYTES
    assert served.endswith(b"the end")
