"""`up` names a setting that cannot work before it starts anything; a role that is started by itself does too."""

import subprocess
import sys
from pathlib import Path

import pytest

from headrace.cli.main import main
from infra.local.process import free_port

NOWHERE = "127.0.0.1:1"
WRONG = [
    (["--results", "file"], "HEADRACE_RESULTS: "),
    (["--kafka-security", "nofile"], "HEADRACE_KAFKA_SECURITY: cannot read nofile"),
    (["--kafka-security", "file"], "no.such.option"),
    (["--database", "nonsense"], "HEADRACE_DATABASE"),
    (["--database", "postgresql://u:p@h/x"], "HEADRACE_DATABASE"),
    (["--http", "0.0.0.0:18001"], "HEADRACE_HTTP is 0.0.0.0:18001, which other machines can reach"),
    (["--analytics-http", "0.0.0.0:18001"], "HEADRACE_ANALYTICS_HTTP is 0.0.0.0:18001, which other machines can reach"),
    (["--data", "file"], "HEADRACE_DATA"),
    (["--data", "file/below"], "HEADRACE_DATA"),
]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("no.such.option=1\n")
    (tmp_path / "results").mkdir()


def told(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.startswith("headrace: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(("options", "words"), WRONG)
def test_up_says_it_before_it_starts_anything(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["up", *options]) == 2
    assert words in told(capsys)
    assert not (tmp_path / ".headrace" / "kafka").exists()


def error_of_role(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "headrace.cli.main", *arguments, "--kafka", NOWHERE],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("role", ["gateway", "worker", "storekeeper", "analytics"])
def test_a_role_names_a_data_directory_that_is_a_file(role: str) -> None:
    own = ["--data", "file", "--results", "results", "--database", "mysql://u:p@127.0.0.1:1/x"]
    own += ["--http", f"127.0.0.1:{free_port()}"]
    assert error_of_role(role, *own).startswith("headrace: HEADRACE_DATA: file")


def test_the_gateway_names_a_database_that_is_no_url() -> None:
    own = ["--data", "data", "--http", f"127.0.0.1:{free_port()}", "--database", "nonsense"]
    assert error_of_role("gateway", *own).startswith("headrace: HEADRACE_DATABASE is not a MySQL URL")
