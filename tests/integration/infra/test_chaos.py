"""`headrace chaos` against a real gateway: it refuses before the first fault where its tasks could only die."""

import json
import os
from pathlib import Path

import pytest

from headrace.cli.main import main
from headrace.contract.cluster import Heartbeat, KindInfo
from headrace.kinds import example_files
from infra.chaos.workloads import NEEDED_KINDS
from tests.rigs.gateway import Stage


def announce(stage: Stage, boot: str, parameters: dict[str, tuple[str, ...]]) -> None:
    kinds = [
        KindInfo(name, {"type": "object", "properties": {p: {} for p in wanted}}, timeout_s=60.0, max_attempts=3)
        for name, wanted in parameters.items()
    ]
    beat = Heartbeat(
        boot, f"node-{boot}", host="host", pid=1, slots=2, started_ms=1, running=(), kinds=tuple(parameters)
    )
    stage.roles.send(*(kind.encode() for kind in kinds), beat.encode())


@pytest.fixture
def chaos(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command for an `up` whose gateway is the stage's."""
    addresses = {"http": stage.gw.url.removeprefix("http://")}
    running = {"pid": os.getpid(), "roles": {"gateway": os.getpid()}, "addresses": addresses}
    (tmp_path / "run.json").write_text(json.dumps(running))
    monkeypatch.setenv("HEADRACE_HTTP", "127.0.0.1:1")  # the addresses of the running `up` win
    monkeypatch.setenv("HEADRACE_KAFKA", stage.settings.kafka)
    return ["chaos", "--data", str(tmp_path), "--minutes", "0.1"]


def test_chaos_refuses_where_its_kinds_are_not_loaded(
    stage: Stage, chaos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(chaos) == 2
    error = capsys.readouterr().err
    assert "does not run the example fragile" in error
    prime, *_, fragile = example_files()
    assert f"HEADRACE_TASKS={prime},{fragile}" in error
    assert error.count("\n") == 1

    announce(stage, "of-another", dict(NEEDED_KINDS) | {"fragile": ("glass",)})  # a kind of the user's own
    assert main(chaos) == 2
    assert "does not run the example fragile" in capsys.readouterr().err


def test_chaos_refuses_where_no_up_runs(chaos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left_over = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(left_over | {"pid": 2**22 + 1}))
    for remains in ("a file of a killed one", "no file"):
        assert main(chaos) == 2, remains
        assert "no `headrace up` runs in" in capsys.readouterr().err
        (tmp_path / "run.json").unlink(missing_ok=True)
