"""The command line: quick to start, every option explained, and one sentence for every error."""

import subprocess
import sys
from dataclasses import fields

import pytest
from click.testing import CliRunner

from headrace.cli.main import COMMANDS, cli, main
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
    ],
)
def test_a_wrong_argument_is_one_sentence_and_exit_code_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_a_gateway_that_does_not_answer_is_one_sentence_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--http", "127.0.0.1:1", "0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a11"]) == 1
    assert "does not answer" in capsys.readouterr().err
