"""The roles of one machine: their ports, names and environment."""

import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.errors import UsageError
from headrace.settings import Settings
from infra.local.roles import machine_roles, reached_at

SETTINGS = Settings(workers=3, kafka="127.0.0.1:9092", stats_http="127.0.0.1:7000")


def test_workers_take_the_next_ports_and_keep_their_names(tmp_path: Path) -> None:
    roles = machine_roles(SETTINGS, tmp_path)
    assert [r.name for r in roles] == ["gateway", "storekeeper", "worker-1", "worker-2", "worker-3"]
    workers = roles[2:]
    assert [r.listens for r in workers] == ["127.0.0.1:7000", "127.0.0.1:7001", "127.0.0.1:7002"]
    assert [r.environ()["HEADRACE_NODE"] for r in workers] == ["node-1", "node-2", "node-3"]
    assert [r.environ()["HEADRACE_STATS_HTTP"] for r in workers] == [r.listens for r in workers]


def test_further_gateways_and_storekeepers_take_the_next_ports_and_have_numbers(tmp_path: Path) -> None:
    several = replace(SETTINGS, workers=1, gateways=2, storekeepers=3, storekeeper_http="127.0.0.1:7100")
    roles = machine_roles(several, tmp_path)
    storekeepers = ["storekeeper", "storekeeper-2", "storekeeper-3"]
    assert [r.name for r in roles] == ["gateway", "gateway-2", *storekeepers, "worker-1"]
    assert [r.listens for r in roles if r.role == "storekeeper"] == [f"127.0.0.1:{7100 + i}" for i in range(3)]
    assert roles[1].environ()["HEADRACE_HTTP"] == roles[1].listens == "127.0.0.1:8001"


def test_a_file_in_the_current_directory_is_no_module_of_a_role(tmp_path: Path) -> None:
    for name in ("random", "click", "headrace"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    for role in machine_roles(SETTINGS, tmp_path)[:3]:
        done = subprocess.run([*role.command(), "--help"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_names_on_a_shared_kafka_carry_the_machine(tmp_path: Path) -> None:
    shared = replace(SETTINGS, kafka="kafka.example:9092", workers=1)
    second = replace(shared, stats_http="127.0.0.1:7010")  # another `up` on this machine
    names = {machine_roles(s, tmp_path)[-1].settings.node_name for s in (shared, second)}
    assert names == {f"{socket.gethostname()}-7000", f"{socket.gethostname()}-7010"}
    [*_, named] = machine_roles(replace(shared, node="harbour"), tmp_path)
    assert named.environ()["HEADRACE_NODE"] == "harbour"


def test_a_role_gets_its_settings_and_not_those_of_our_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_HTTP", "127.0.0.1:1")
    monkeypatch.setenv("UNRELATED", "kept")
    environ = machine_roles(SETTINGS, tmp_path)[0].environ()
    assert "HEADRACE_HTTP" not in environ
    assert environ["UNRELATED"] == "kept"


def test_a_last_port_beyond_the_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="HEADRACE_STATS_HTTP"):
        machine_roles(replace(SETTINGS, stats_http="127.0.0.1:65535"), tmp_path)


def test_a_server_on_all_addresses_is_reached_on_loopback() -> None:
    assert reached_at("0.0.0.0:80") == ("127.0.0.1", 80)
    assert reached_at("[::]:80") == ("::1", 80)
    assert reached_at("10.0.0.1:80") == ("10.0.0.1", 80)
