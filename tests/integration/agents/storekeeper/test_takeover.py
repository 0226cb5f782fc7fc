"""What a storekeeper reads when it takes over a partition, on a real broker: only what no snapshot has."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agents.storekeeper import index_catchup
from agents.storekeeper.index_catchup import IndexCatchup
from agents.storekeeper.index_snapshots import FOLDER, IndexSnapshots
from agents.storekeeper.index_upkeep import IndexUpkeep
from agents.storekeeper.result_store import ResultStore
from agents.storekeeper.terminal_index import OUTPUTS, IndexDamaged, TerminalIndex
from benchmarks.growth.generate import generate
from headrace.kafka.client import Kafka
from headrace.kafka.partitioner import partition_of
from headrace.settings import Settings
from headrace.storage.results_root import ResultsRoot, open_directory
from tests.rigs.storekeeper import wait_for
from tests.rigs.topics import PARTITIONS

TASKS = 1200
EVERY = range(PARTITIONS)


@dataclass
class Storekeepers:
    """Indexes of several storekeepers with one results root."""

    kafka: Kafka
    folder: Path
    stack: ExitStack
    root: ResultsRoot = field(init=False)
    snapshots: IndexSnapshots = field(init=False)

    def __post_init__(self) -> None:
        self.root = open_directory(self.folder / "results")
        self.stack.callback(self.root.close)
        self.snapshots = IndexSnapshots(self.root, worth=50)

    def index(self, name: str, remember_days: float = 0, **limits: int) -> tuple[TerminalIndex, IndexCatchup]:
        index = TerminalIndex(self.folder / f"{name}.sqlite")
        self.stack.callback(index.close)
        catchup = IndexCatchup(self.kafka, index, self.snapshots, remember_days, **limits)
        self.stack.callback(catchup.close)
        return index, catchup

    def files(self) -> list[Path]:
        return sorted((self.folder / "results" / FOLDER).glob("0*"))


@pytest.fixture
def keepers(kafka_settings: Settings, topics: str, tmp_path: Path) -> Iterator[Storekeepers]:
    with ExitStack() as stack:
        yield Storekeepers(Kafka(kafka_settings, "takeover"), tmp_path, stack)


def merged(keepers: Storekeepers) -> list[str]:
    """A storekeeper has read everything, merged it and saved its snapshots; returns ids that have ended."""
    sample = generate(keepers.kafka, TASKS, say=lambda _: None).sample
    index, catchup = keepers.index("first")
    assert catchup.catch_up(EVERY) == TASKS
    upkeep = IndexUpkeep(index, keepers.snapshots, merge_events=10)
    upkeep.start()

    def taken_into_use() -> bool:
        index.use_merged()
        return not +index.unmerged

    wait_for(taken_into_use, "all merged")
    upkeep.close()
    assert len(index) == TASKS
    assert len(keepers.files()) == PARTITIONS
    known = {i: p for p, some in sample.items() for i in some}
    assert index.find_terminal(known) == set(known)
    return list(known)


def test_a_new_owner_reads_only_what_came_after_the_snapshots(keepers: Storekeepers) -> None:
    merged(keepers)
    store = ResultStore(keepers.root)
    store.open()  # it removes what dead storekeepers have left
    store.close()
    later = generate(keepers.kafka, 40, say=lambda _: None).sample
    index, catchup = keepers.index("second")
    assert catchup.catch_up(EVERY) == 40
    assert len(index) == TASKS + 40
    known = {i: p for p, some in later.items() for i in some}
    assert index.find_terminal(known) == set(known)
    assert catchup.catch_up(EVERY) == 0


def test_a_takeover_says_how_far_it_has_come(keepers: Storekeepers, monkeypatch: pytest.MonkeyPatch) -> None:
    generate(keepers.kafka, TASKS, say=lambda _: None)
    monkeypatch.setattr(index_catchup, "_BATCH", 50)
    _, catchup = keepers.index("slow", most_held=100)
    said = list[str | None]()
    assert catchup.progress() is not None
    assert catchup.catch_up(EVERY, before_each=lambda: said.append(catchup.progress())) == TASKS
    assert catchup.progress() is None
    percents = [int(words.split()[3]) for words in said if words is not None and "reads the log: " in words]
    assert percents[0] == 0
    assert percents == sorted(percents)
    assert percents[-1] > 50


def test_many_new_events_go_straight_into_base_files_which_are_snapshots_at_once(keepers: Storekeepers) -> None:
    index, catchup = keepers.index("first", merge_from=10, most_held=100)
    known: dict[str, int] = {}
    for count in (40, TASKS):  # first a few into the SQLite file
        known |= {i: p for p, some in generate(keepers.kafka, count, say=lambda _: None).sample.items() for i in some}
        assert catchup.catch_up(EVERY) == count
    assert len(index) == 40 + TASKS
    assert not +index.unmerged
    assert index.find_terminal(known) == set(known)
    assert len(keepers.files()) == PARTITIONS
    other, catchup = keepers.index("second")
    assert catchup.catch_up(EVERY) == 0
    assert len(other) == 40 + TASKS
    later = {i: p for p, some in generate(keepers.kafka, 40, say=lambda _: None).sample.items() for i in some}
    index.add_entries([], None)
    assert catchup.catch_up(EVERY) == 40
    assert other.find_terminal(known | later) == set(known | later)


def test_a_damaged_base_file_is_found_while_new_events_are_merged_into_it(
    keepers: Storekeepers, tmp_path: Path
) -> None:
    merged(keepers)
    keepers.stack.close()  # the first storekeeper ends
    again = Storekeepers(keepers.kafka, tmp_path, keepers.stack)
    index, catchup = again.index("first", merge_from=1)
    flipped(tmp_path / "first" / "index" / "0001.base")
    generate(keepers.kafka, 100, say=lambda _: None)
    with pytest.raises(IndexDamaged):
        catchup.catch_up(EVERY)
    assert not (tmp_path / "first" / "index" / "0001.base").exists()
    again.stack.close()
    index, catchup = Storekeepers(keepers.kafka, tmp_path, keepers.stack).index("first")
    catchup.catch_up(EVERY)
    assert len(index) == TASKS + 100


def test_an_index_survives_its_process_with_its_base_files(keepers: Storekeepers, tmp_path: Path) -> None:
    merged(keepers)
    keepers.stack.close()
    again = TerminalIndex(tmp_path / "first.sqlite")
    assert len(again) == TASKS
    assert sum(again.positions().values()) == TASKS
    again.close()


def test_a_lost_base_file_makes_the_partition_start_over(keepers: Storekeepers, tmp_path: Path) -> None:
    merged(keepers)
    keepers.stack.close()
    (tmp_path / "first" / "index" / "0001.base").unlink()
    again = TerminalIndex(tmp_path / "first.sqlite")
    assert {p for _, p in again.positions()} == set(EVERY) - {1}
    again.close()


def test_a_base_file_that_is_damaged_while_it_is_used_is_removed_and_said(
    keepers: Storekeepers, tmp_path: Path
) -> None:
    ids = [i for i in merged(keepers) if partition_of(i.encode(), PARTITIONS) == 1]
    keepers.stack.close()
    again = TerminalIndex(tmp_path / "first.sqlite")
    path = tmp_path / "first" / "index" / "0001.base"
    with path.open("r+b") as f:
        f.seek(4096)
        f.write(b"\xff" * 24)
    with pytest.raises(IndexDamaged):
        again.find_terminal(dict.fromkeys(ids, 1))
    assert not path.exists()


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 24)


def flipped(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[-5] ^= 1
    file.write_bytes(raw)


def foreign(file: Path) -> None:
    raw = file.read_bytes()
    at = raw.index(b'"installation":"') + len(b'"installation":"')
    file.write_bytes(raw[:at] + (b"x" if raw[at : at + 1] != b"x" else b"y") + raw[at + 1 :])


def of_another_version(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b'"version":1', b'"version":2', 1))


def of_another_log(file: Path) -> None:
    head = file.read_bytes()[:4096]
    at = head.index(b'"positions":[') + len(b'"positions":[')
    file.write_bytes(head[:at] + b"9" + head[at : 4096 - 1] + file.read_bytes()[4096:])


@pytest.mark.parametrize("damage", [cut, flipped, foreign, of_another_version, of_another_log])
def test_a_snapshot_that_cannot_be_used_is_passed_over_and_the_log_is_read(
    keepers: Storekeepers, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    merged(keepers)
    for file in keepers.files():
        damage(file)
    index, catchup = keepers.index("second")
    assert catchup.catch_up(EVERY) == TASKS
    assert len(index) == TASKS
    assert "is passed over, the log is read" in caplog.text


def test_ids_are_remembered_for_as_many_days_as_the_setting_says(keepers: Storekeepers) -> None:
    generate(keepers.kafka, TASKS, rate=TASKS / 86_400 / 2, say=lambda _: None)  # over two days
    everything, catchup = keepers.index("all")
    assert catchup.catch_up(EVERY) == TASKS
    young, catchup = keepers.index("young", remember_days=1)
    count = catchup.catch_up(EVERY)
    assert abs(count - TASKS / 2) < TASKS / 8
    assert len(young) == count
    older = IndexCatchup(keepers.kafka, everything, None, remember_days=1)
    older.forget_old(EVERY)  # as a storekeeper does that goes on for days
    older.close()
    assert abs(len(everything) - count) <= PARTITIONS  # one a partition may have aged meanwhile
    assert {o for o, _ in young.positions()} == set(OUTPUTS)
