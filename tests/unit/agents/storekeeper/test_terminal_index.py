"""The storekeeper's index of terminal ids, in a real SQLite file."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.storekeeper.terminal_index import TerminalIndex
from headrace.contract.ids import new_id
from headrace.errors import UsageError

DONE, DEAD = "lifecycle.completed", "tasks.dead"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "storekeeper.sqlite"


@pytest.fixture
def index(path: Path) -> Iterator[TerminalIndex]:
    index = TerminalIndex(path)
    yield index
    index.close()


def test_ids_are_known_after_they_were_added_however_many_are_asked_for(index: TerminalIndex) -> None:
    ids = [new_id() for _ in range(1500)]
    index.add_entries([(i, DONE, 0, n) for n, i in enumerate(ids[:1200])])
    assert index.find_terminal(dict.fromkeys(ids, 0)) == set(ids[:1200])
    assert len(index) == 1200


def test_positions_advance_with_reading_and_otherwise_only_over_events_that_follow_directly(
    index: TerminalIndex,
) -> None:
    index.add_entries([], {(DONE, 0): 5, (DEAD, 0): 0})
    index.add_entries([(new_id(), DONE, 0, 6), (new_id(), DONE, 0, 5), (new_id(), DONE, 0, 9)])
    assert index.positions() == {(DONE, 0): 7, (DEAD, 0): 0}  # 7 and 8 may be another storekeeper's


def test_both_survive_closing(path: Path) -> None:
    first = TerminalIndex(path)
    task = new_id()
    first.add_entries([(task, DEAD, 3, 41)], {(DEAD, 3): 42})
    first.close()
    again = TerminalIndex(path)
    assert again.find_terminal({task: 3}) == {task}
    assert again.positions() == {(DEAD, 3): 42}
    again.close()


def test_the_first_event_of_an_id_stays(index: TerminalIndex) -> None:
    task = new_id()
    index.add_entries([(task, DONE, 0, 1)])
    index.add_entries([(task, DEAD, 0, 1)])
    assert len(index) == 1


def test_events_that_the_log_no_longer_holds_are_forgotten(index: TerminalIndex) -> None:
    old, new, other = new_id(), new_id(), new_id()
    index.add_entries([(old, DONE, 0, 1), (new, DONE, 0, 2), (other, DONE, 1, 1)])
    index.forget_before((DONE, 0), 2)
    assert index.find_terminal({old: 0, new: 0, other: 1}) == {new, other}


def test_ids_and_positions_of_another_cluster_or_prefix_are_forgotten(path: Path) -> None:
    task = new_id()
    first = TerminalIndex(path)
    first.adopt("cluster-1 one.")
    first.add_entries([(task, DONE, 0, 0)], {(DONE, 0): 1})
    first.close()
    again = TerminalIndex(path)
    again.adopt("cluster-1 one.")
    assert (again.find_terminal({task: 0}), again.positions()) == ({task}, {(DONE, 0): 1})
    again.adopt("cluster-1 two.")
    assert (again.find_terminal({task: 0}), again.positions()) == (set(), {})
    again.close()


def test_a_broken_file_is_replaced_by_an_empty_one(path: Path) -> None:
    path.write_bytes(b"this is not a database and never was one.... " * 100)
    index = TerminalIndex(path)
    assert index.positions() == {}
    index.close()


def test_a_second_process_on_the_same_file_is_refused(index: TerminalIndex, path: Path) -> None:
    with pytest.raises(UsageError, match="in use"):
        TerminalIndex(path)
