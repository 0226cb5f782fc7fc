"""The command line: quick to start, every option explained, and one sentence for every error."""

import http.server
import io
import re
import subprocess
import sys
import threading
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from headrace.cli.main import COMMANDS, cli, main
from headrace.cli.options import unknown_variables
from headrace.settings import Settings

HEAVY = ("confluent_kafka", "httpx", "faust", "fastapi", "pydantic", "pyspark", "yaml")


def help_of(*command: str) -> str:
    result = CliRunner().invoke(cli, [*command, "--help"], prog_name="headrace", terminal_width=200)
    assert result.exit_code == 0, result.output
    return result.output


def test_help_imports_nothing_slow() -> None:
    program = (
        "import sys; from headrace.cli.main import main; main(['worker', '--help']); "
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_promised_command_exists_and_has_help() -> None:
    roles = {"up", "gateway", "worker", "storekeeper", "analytics"}
    tasks = {"submit", "produce", "status", "events", "result", "cancel", "dead", "why"}
    promised = roles | tasks | {"topics", "kinds", "nodes"}
    assert promised <= set(COMMANDS)
    listing = help_of()
    for name in COMMANDS:
        assert f"  {name}" in listing
        assert len(help_of(name)) > 80


def test_a_roles_help_names_every_setting_with_its_variable_and_default() -> None:
    text = help_of("up")
    for f in fields(Settings):
        shown = f.name != "api_keys"  # no gateway checks keys yet
        assert (f"--{f.name.replace('_', '-')}" in text) is shown
        assert (f.metadata["env"] in text) is shown
    assert "default: 127.0.0.1:8000" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["worker", "--lease-s", "1"], "HEADRACE_LEASE_S"),
        (["storekeeper", "--kafka", ""], "HEADRACE_KAFKA"),
        (["gateway", "--http", "8000"], "host:port"),
        (["no-such-command"], "No such command"),
        (["submit"], "Missing argument"),
        (["submit", "pr\udce9me", "{}"], "must be UTF-8"),
        (["produce", "pr\udce9me", "{}"], "must be UTF-8"),
    ],
)
def test_a_wrong_argument_is_one_sentence_and_exit_code_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


TASK = "0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a11"
NOWHERE = "127.0.0.1:1"


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a gateway nor Kafka answers."""
    monkeypatch.setenv("HEADRACE_HTTP", NOWHERE)
    monkeypatch.setenv("HEADRACE_KAFKA", NOWHERE)


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence on stderr."""
    error = capsys.readouterr().err
    assert error.startswith("headrace: ")
    assert error.count("\n") == 1, error
    return error


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(
    "command",
    [
        ["submit", "prime", "{}"],
        ["submit", "prime", "{}", "--wait"],
        ["status", TASK],
        ["events"],
        ["events", TASK],
        ["result", TASK],
        ["result", TASK, "-o", "out"],
        ["log", TASK],
        ["log", TASK, "-a", "1"],
        ["cancel", TASK],
        ["kinds"],
        ["nodes"],
        ["dead", "list"],
        ["dead", "redrive", "--all"],
        ["dead", "redrive", "--dry-run"],
        ["dead", "redrive", "--id", TASK],
    ],
)
def test_a_gateway_that_does_not_answer_is_one_sentence_and_exit_code_5(
    command: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command) == 5
    sentence = told(capsys)
    assert "http://127.0.0.1:1 does not answer (Connection refused)" in sentence
    assert "HEADRACE_HTTP" in sentence
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(
    "command", [["topics", "diff"], ["topics", "apply"], ["produce", "prime", "{}"], ["why", TASK]]
)
def test_a_kafka_that_does_not_answer_is_one_sentence_and_exit_code_5(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 5
    sentence = told(capsys)
    assert "Kafka at 127.0.0.1:1 does not answer" in sentence
    assert "HEADRACE_KAFKA" in sentence


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("command", ["submit", "produce"])
@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ("@nofile", "No such file"),
        ("@.", "Is a directory"),
        ("@binary", "not JSON"),
        ("@broken", "not JSON"),
        ("@a\0b", "cannot be read"),
        ("{bad", "not JSON"),
        ("[1]", "must be a JSON object"),
    ],
)
def test_a_payload_that_cannot_be_used_is_one_sentence_and_exit_code_2(
    command: str,
    payload: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "binary").write_bytes(b"\x00\xff")
    (tmp_path / "broken").write_text('{"a": ')
    assert main([command, "prime", payload]) == 2
    assert words in told(capsys)


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(
    "command", [["status"], ["events"], ["result"], ["log"], ["cancel"], ["why"], ["dead", "redrive", "--id"]]
)
@pytest.mark.parametrize("text", ["nope", "../kinds", "?a=b", TASK + "0"])
def test_a_text_that_is_no_task_id_is_one_sentence_and_exit_code_2(
    command: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, text]) == 2
    assert "is not a task id" in told(capsys)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no.such.option=1", "no.such.option"),
        (b"security.protocol=NONSENSE", "security.protocol"),
        (b"security.protocol=SSL\nssl.ca.location=/no/such/file", "ssl.ca.location"),
        (b"\xff\xfe\x00", "no text file"),
        (b"nonsense", "key=value"),
    ],
)
def test_security_options_that_cannot_be_used_are_one_sentence_and_exit_code_2(
    content: bytes, words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "security").write_bytes(content)
    assert main(["topics", "diff", "--kafka", NOWHERE, "--kafka-security", str(tmp_path / "security")]) == 2
    sentence = told(capsys)
    assert words in sentence
    assert str(tmp_path / "security") in sentence


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sumbit", "prime"], "Did you mean 'submit'"),
        (["submit", "prime", "--directroy", "x"], "Did you mean --directory"),
        (["events", TASK, "--name", "prime"], "leave them out"),
        (["dead", "redrive", "--all", "--name", "prime"], "--all"),
        (["dead", "redrive", "--all", "--id", TASK], "--all"),
        (["dead", "redrive", "--id", TASK, "--name", "prime"], "--all"),
        (["dead", "redrive", "--name", ""], "--name is empty"),
        (["dead", "redrive"], "--all"),
        (["dead", "redrive", "--again"], "--all"),
    ],
)
def test_what_was_misspelt_or_contradicts_itself_is_named(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))  # no terminal: a "y" that is piped in confirms nothing
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_a_server_that_is_no_gateway_is_told_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for command in (["status", TASK], ["events"], ["kinds"]):
            assert main([*command, "--http", f"127.0.0.1:{server.server_port}"]) == 1
            assert "is no gateway of Headrace" in told(capsys)
        server.shutdown()


@pytest.mark.parametrize("command", [["worker", "--lease-s", "1"], ["up", "--lease-s", "1"], ["status", TASK]])
def test_a_variable_that_nothing_reads_is_named_with_the_nearest_one(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_HTTP", NOWHERE)
    monkeypatch.setenv("HEADRACE_WORKER", "2")
    monkeypatch.setenv("HEADRACE_XYZZY", "2")
    for known in ("HEADRACE_DATABASE_FILE", "HEADRACE_CACHE", "HEADRACE_ROLE", "HEADRACE_TEST_KAFKA"):
        monkeypatch.setenv(known, "")
    main(command)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert warnings == [
        "headrace: warning: no setting is called HEADRACE_WORKER: did you mean HEADRACE_WORKERS?",
        "headrace: warning: no setting is called HEADRACE_XYZZY; `headrace up --help` lists those there are",
    ]


def test_every_variable_that_the_code_reads_is_known() -> None:
    root = Path(__file__).parents[3]
    files = [*(root / "infra").rglob("*.yaml"), root / "Dockerfile"]
    files += [
        f for part in ("headrace", "gateway", "agents", "spark_analytics", "infra") for f in (root / part).rglob("*.py")
    ]
    used = {name for file in files for name in re.findall(r"HEADRACE_[A-Z_]*[A-Z]\b(?!_)", file.read_text())}
    assert unknown_variables(used) == []
