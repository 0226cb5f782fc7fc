"""The rows and systems of the peers' benchmark fit together: what is offered can be measured, and is shown."""

import ast
from pathlib import Path

import pytest

from benchmarks.peers import systems
from benchmarks.peers.measure import ALONE, METRICS
from benchmarks.peers.metrics.latency import kendall_tau
from benchmarks.peers.metrics.requests import request_kind
from benchmarks.peers.peers_venv import LOCK
from benchmarks.peers.rounds import GROUPS
from benchmarks.peers.rows import LETTERS, ROWS
from benchmarks.peers.systems import SYSTEMS

FOLDER = Path(systems.__file__).parent
GROUPED = [row for group in GROUPS for row in group]


def test_every_row_is_measured_once_and_shown() -> None:
    assert sorted(GROUPED) == sorted({*METRICS, *ALONE})
    assert set(LETTERS) == set(GROUPED)


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_has_a_module_with_a_class_and_rows_that_exist(name: str) -> None:
    entry = SYSTEMS[name]
    tree = ast.parse((FOLDER / f"{entry.module}.py").read_text())
    assert "Sys" in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    assert entry.rows.split() == [row for row in entry.rows.split() if row in GROUPED]
    assert set(entry.needs) <= {"kafka", "redis"}


def test_every_module_of_systems_is_in_the_table() -> None:
    modules = {file.stem for file in FOLDER.glob("*.py")} - {"__init__"}
    assert modules == {entry.module for entry in SYSTEMS.values()}


def test_every_row_can_be_measured_by_headrace() -> None:
    ours = {row for name, entry in SYSTEMS.items() if name.startswith("headrace") for row in entry.rows.split()}
    assert ours == set(GROUPED)


def test_figures_that_a_module_returns_have_the_letter_of_their_row() -> None:
    assert {row.letter for row in ROWS} == {*GROUPED, "start"}


def test_kendall_tau_of_sorted_reversed_and_swapped_places() -> None:
    assert kendall_tau([0, 1, 2, 3]) == 1
    assert kendall_tau([3, 2, 1, 0]) == -1
    assert kendall_tau([1, 0, 2, 3]) == pytest.approx(2 / 3)


def test_a_line_of_the_request_log_tells_the_kind_of_request() -> None:
    line = 'Completed request:{"isForwarded":false,"requestHeader":{"requestApiKey":0,"requestApiKeyName":"PRODUCE"}}'
    assert request_kind(line) == "PRODUCE"
    assert request_kind("Closed an idle connection") == ""


def test_the_peers_lock_has_hashes_and_names_no_registry() -> None:
    text = LOCK.read_text()
    packages = [line for line in text.splitlines() if line and line[0].isalpha()]
    assert "http://" not in text
    assert "https://" not in text
    assert all(line.endswith("\\") for line in packages)
    for peer in ("celery", "dramatiq", "taskiq", "rq", "arq", "pebble"):
        assert any(line.startswith((f"{peer}==", f"{peer}[")) for line in packages)
