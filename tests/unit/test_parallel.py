"""The groups in which `pytest -n` shares the tests: whole, and in the order of the table."""

from pathlib import Path

from tests.parallel import GROUPS, group_of, place_of

ROOT = Path(__file__).parents[2]


def test_every_path_of_the_table_is_one() -> None:
    starts = [start for starts in GROUPS.values() for start in starts]
    assert [s for s in starts if not (ROOT / s).exists()] == []


def test_files_that_share_what_is_dear_have_one_group_and_others_their_own() -> None:
    assert group_of("tests/faults/test_one_fault.py::test_a[kill]") == "faults"
    assert group_of("tests/acceptance/test_http.py::test_a") == group_of("tests/acceptance/test_page.py::test_b")
    assert group_of("tests/acceptance/test_statistics_page.py::test_a") == "database"
    assert group_of("tests/unit/headrace/test_cli.py::test_a[x::y]") == "tests/unit/headrace/test_cli.py"


def test_the_tables_tests_come_first_in_its_order() -> None:
    ids = [
        "tests/unit/headrace/test_cli.py::t",
        "tests/acceptance/test_http.py::t",
        "tests/integration/spark_analytics/test_sinks.py::t",
    ]
    assert sorted(ids, key=place_of) == ids[::-1]
