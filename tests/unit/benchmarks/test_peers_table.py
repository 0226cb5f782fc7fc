"""The table of the peers' benchmark: medians, spread and ratios, on figures that are known."""

import json
from pathlib import Path

import pytest

from benchmarks.peers.rounds import Measurement, append, read
from benchmarks.peers.rows import ROWS
from benchmarks.peers.table import collect, errors, markdown, number

MEASURED = [
    Measurement(1, "peer", {"D_p50_ms": 4.0, "A_tasks_per_s": 1000.0}),
    Measurement(1, "ours", {"D_p50_ms": 1.0}),
    Measurement(2, "peer", {"D_p50_ms": 8.0, "P_high_s": "no priorities"}),
    Measurement(2, "ours", {"D_p50_ms": 2.0}),
    Measurement(3, "peer", {"D_p50_ms": 6.0}),
    Measurement(3, "ours", {"D_p50_ms": 12.0, "D_error": "NotDone: "}),
]


def cells(title: str) -> list[str]:
    lines = markdown(collect(MEASURED), "peer").splitlines()
    return next([c.strip() for c in line.split("|")[2:-1]] for line in lines if line.startswith(f"| {title} |"))


def test_a_row_has_medians_their_spread_and_ratios_to_the_baseline() -> None:
    assert cells("lone task, p50, ms") == ["6 (4 to 8)", "2 (1 to 12.0) ×0.33"]


def test_a_figure_of_one_system_alone_has_no_ratio_and_the_others_a_dash() -> None:
    assert cells("2,000 no-ops, tasks/s") == ["1,000", "–"]


def test_a_text_stands_where_there_is_no_number() -> None:
    assert cells("20 high behind 1,000, s") == ["no priorities", "–"]


def test_rows_that_nobody_measured_are_left_out() -> None:
    assert "broker requests" not in markdown(collect(MEASURED), "peer")


def test_the_systems_are_columns_in_the_order_of_the_run() -> None:
    assert markdown(collect(MEASURED), "peer").splitlines()[0] == "| | peer | ours |"


def test_rounds_that_failed_are_told_beside_those_that_did_not() -> None:
    table = collect(
        [*MEASURED, Measurement(4, "ours", {"F2_s": "1 of 2 not back"}), Measurement(5, "ours", {"F2_s": 3.0})]
    )
    assert "| 3; 1 of 2 not back |" in markdown(table, "peer")


def test_failed_measurements_are_listed() -> None:
    assert errors(collect(MEASURED)) == ["ours D_error: NotDone: "]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(12345.6, "12,346"), (-250.0, "-250"), (12.345, "12.3"), (1.2345, "1.23"), (0.012345, "0.0123")],
)
def test_numbers_have_three_digits_and_no_exponent(value: float, shown: str) -> None:
    assert number(value) == shown


def test_measurements_survive_their_file(tmp_path: Path) -> None:
    file = tmp_path / "figures.jsonl"
    for one in MEASURED:
        append(file, one)
    assert read(file) == MEASURED
    assert all("at" in json.loads(line) for line in file.read_text().splitlines())


def test_every_figure_has_one_row() -> None:
    assert len({row.figure for row in ROWS}) == len({row.title for row in ROWS}) == len(ROWS)
