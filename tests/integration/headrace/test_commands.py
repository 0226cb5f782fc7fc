"""The commands that talk to a gateway, against a real one: exit codes, results in files, and what is redriven."""

import os
import pty
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from headrace.cli.main import main
from headrace.contract.exact_json import parse_json
from headrace.contract.ids import new_id
from headrace.contract.states import Reason
from tests.rigs.gateway import Stage, records_on, submission

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(stage: Stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command against the stage's gateway and Kafka; returns exit code, stdout and stderr."""
    monkeypatch.setenv("HEADRACE_HTTP", stage.gw.url.removeprefix("http://"))
    monkeypatch.setenv("HEADRACE_KAFKA", stage.settings.kafka)
    monkeypatch.setenv("HEADRACE_TOPIC_PREFIX", stage.settings.topic_prefix)

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(list(arguments))
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def ended(stage: Stage, reason: Reason | None = None, name: str = "prime") -> str:
    """The id of a task that has completed, or that is dead for this reason."""
    task_id = new_id()
    if reason is None:
        stage.roles.run(task_id)
    else:
        outcome = replace(stage.roles.outcome(task_id), outcome="failed", name=name, value=submission(), reason=reason)
        stage.roles.send(outcome.dead_letter())
    deadline = time.monotonic() + 20
    while not stage.gw.http.get(f"/tasks/{task_id}").json().get("ended_at"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return task_id


@pytest.mark.parametrize("command", ["status", "events", "result", "log", "cancel"])
def test_an_unknown_task_is_exit_code_4(run: Run, command: str) -> None:
    code, out, error = run(command, new_id())
    assert (code, out) == (4, "")
    assert error.startswith("headrace: no task has the id")
    assert error.count("\n") == 1


def test_a_task_that_kafka_knows_nothing_of_is_exit_code_4(run: Run) -> None:
    assert run("why", new_id())[0] == 4


def test_an_unknown_kind_is_exit_code_4_and_names_those_there_are(run: Run) -> None:
    code, _, error = run("submit", "pirme", "{}")
    assert code == 4
    assert "available are prime" in error


@pytest.mark.parametrize(
    "arguments", [["prime", '{"upper_bound": "x"}'], ["prime", '{"upper_bound": 1}', "-d", "../up"]]
)
def test_a_submission_that_breaks_a_rule_is_exit_code_2(run: Run, arguments: list[str]) -> None:
    assert run("submit", *arguments)[0] == 2


@pytest.mark.parametrize(("reason", "status"), [(Reason.FAILED, "failed"), (Reason.CANCELLED, "cancelled")])
def test_a_task_without_a_result_is_exit_code_3(run: Run, stage: Stage, reason: Reason, status: str) -> None:
    code, _, error = run("result", ended(stage, reason))
    assert code == 3
    assert status in error


def test_a_task_that_has_ended_cannot_be_cancelled(run: Run, stage: Stage) -> None:
    assert run("cancel", ended(stage))[0] == 1


def test_a_result_is_written_whole_or_not_at_all(run: Run, stage: Stage, tmp_path: Path) -> None:
    task_id = ended(stage)
    new, old = tmp_path / "new.json", tmp_path / "old.json"
    old.write_text("old, and longer than the result")
    old.chmod(0o600)
    for path in (new, old):
        assert run("result", task_id, "-o", str(path)) == (0, "", "")
        assert path.read_bytes() == b"[2,3,5,7]"
    assert old.stat().st_mode & 0o777 == 0o600
    assert sorted(tmp_path.iterdir()) == [new, old]

    old.write_text("kept")
    assert run("result", new_id(), "-o", str(old))[0] == 4
    assert old.read_text() == "kept"


@pytest.mark.parametrize(("path", "words"), [("no/such/folder/x", "No such file"), (".", "is a directory")])
def test_a_path_that_cannot_be_written_is_one_sentence(
    run: Run, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, error = run("result", ended(stage), "-o", path)
    assert code == 2
    assert words in error
    assert "Traceback" not in error


def test_a_full_disk_is_one_sentence(run: Run, stage: Stage) -> None:
    code, _, error = run("result", ended(stage), "-o", "/dev/full")
    assert (code, "No space left" in error) == (1, True)


@contextmanager
def broken_gateway(answer: bytes) -> Iterator[str]:
    """A server that sends these bytes and breaks the connection; yields its host:port."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


def test_a_connection_that_breaks_in_a_result_leaves_no_file(run: Run, tmp_path: Path) -> None:
    with broken_gateway(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf") as address:
        code, _, error = run("result", new_id(), "-o", str(tmp_path / "out"), "--http", address)
    assert code == 5
    assert "does not answer" in error
    assert list(tmp_path.iterdir()) == []


def kind_of_its_own() -> str:
    return f"dead-{uuid.uuid4().hex[:6]}"


def test_named_dead_letters_are_redriven_and_no_others(run: Run, stage: Stage) -> None:
    kind = kind_of_its_own()
    first, second, third = (ended(stage, Reason.FAILED, kind) for _ in range(3))
    code, out, error = run("dead", "redrive", "--id", first.upper(), second)
    assert (code, error) == (0, "")
    assert {i["redrive_of"] for i in orjson.loads(out)["items"]} == {first, second}

    code, out, error = run("dead", "redrive", "--name", kind)
    assert [i["redrive_of"] for i in orjson.loads(out)["items"]] == [third]
    assert "2 were redriven before" in error

    code, out, error = run("dead", "redrive", "--id", first, "--again")
    assert (code, error, orjson.loads(out)["redriven"]) == (0, "", 1)


def test_an_id_that_is_no_dead_letter_is_an_error(run: Run, stage: Stage) -> None:
    assert run("dead", "redrive", "--id", new_id())[0] == 4
    assert run("dead", "redrive", "--id", ended(stage))[0] == 1
    code, out, _ = run("dead", "redrive", "--id", new_id(), "--id", ended(stage, Reason.FAILED))
    assert (code, orjson.loads(out)["redriven"]) == (4, 1)


def test_every_dead_letter_is_listed(run: Run, stage: Stage) -> None:
    kind = kind_of_its_own()
    ids = {new_id() for _ in range(60)}  # more than a page has
    for task_id in ids:
        outcome = replace(
            stage.roles.outcome(task_id), outcome="failed", name=kind, value=submission(), reason=Reason.FAILED
        )
        stage.roles.send(outcome.dead_letter())
    deadline = time.monotonic() + 20
    listed: set[str] = set()
    while listed != ids:
        assert time.monotonic() < deadline, len(listed)
        listed = {item["id"] for item in orjson.loads(run("dead", "list", "--name", kind, "--json")[1])}
    lines = run("dead", "list", "--name", kind)[1].splitlines()
    assert {line.split()[0] for line in lines} == ids


@pytest.mark.parametrize(("answer", "redriven"), [("y", True), ("n", False), ("", False)])
def test_a_person_is_asked_before_everything_is_redriven(stage: Stage, answer: str, redriven: bool) -> None:
    task_id = ended(stage, Reason.FAILED)
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "headrace.cli.main", "dead", "redrive"]
    environ = os.environ | {"HEADRACE_HTTP": stage.gw.url.removeprefix("http://")}
    with subprocess.Popen(command, stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ) as asking:
        os.write(master, f"{answer}\n".encode())
        out, error = asking.communicate(timeout=60)
    os.close(master)
    os.close(slave)
    assert b"dead letters again, as new tasks? [y/N]" in error
    assert asking.returncode == (0 if redriven else 1)
    assert (task_id.encode() in out) is redriven
    again = [r for r in records_on(stage.settings, "tasks.normal") if (r.text("redrive-of", "")) == task_id]
    assert len(again) == int(redriven)


def test_integers_beyond_64_bits_are_sent_and_printed_exactly(run: Run, stage: Stage) -> None:
    stage.roles.announce("big-kind", {"type": "object", "properties": {"n": {"type": "integer", "maximum": 2**70}}})
    code, task_id, error = run("submit", "big-kind", f'{{"n": {2**70}}}')
    assert code == 0, error
    [record] = [r for r in records_on(stage.settings, "tasks.normal") if r.key == task_id.strip().encode()]
    assert parse_json(record.value or b"")["payload"] == {"n": 2**70}
    code, produced, error = run("produce", "big-kind", f'{{"n": {2**80}}}')
    assert code == 0, error
    [record] = [r for r in records_on(stage.settings, "tasks.normal") if r.key == produced.split()[0].encode()]
    assert parse_json(record.value or b"")["payload"] == {"n": 2**80}
    assert f'"maximum": {2**70}' in run("kinds", "--json")[1]


@pytest.mark.parametrize(
    "payload", ['{"n": NaN}', '{"n": 1, "n": 2}', f'{{"n": {"9" * 5000}}}', '{"n": ' + "[" * 300 + "]" * 300 + "}"]
)
def test_a_payload_that_is_refused_everywhere_is_refused_by_the_command(run: Run, payload: str) -> None:
    for command in ("submit", "produce"):
        code, out, error = run(command, "prime", payload)
        assert (code, out) == (2, "")
        assert error.startswith("headrace: the payload ")
        assert error.count("\n") == 1


def test_a_terminal_without_unicode_ends_no_command(stage: Stage) -> None:
    task_id = new_id()
    stage.roles.dead(task_id, error="ValueError: snow \u2603")
    environ = os.environ | {"HEADRACE_HTTP": stage.gw.url.removeprefix("http://"), "PYTHONIOENCODING": "latin-1"}
    for command in (["events", task_id], ["status", task_id], ["status", task_id, "--json"]):
        done = subprocess.run([sys.executable, "-m", "headrace.cli.main", *command], env=environ, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert b"snow \\u2603" in done.stdout


def test_an_event_that_is_no_json_is_one_sentence(run: Run) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    with broken_gateway(head + b"data: {broken\n\n") as address:
        code, _, error = run("events", "--http", address)
    assert (code, error.count("\n")) == (1, 1)
    assert "is no gateway of Headrace" in error
