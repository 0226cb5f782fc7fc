"""Results in chunks are put together, on a real filesystem."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agents.storekeeper.partial_files import PartialFile
from agents.storekeeper.result_assembly import ABANDONED_S, AGREED_S, ChunkSets, Incomplete
from agents.storekeeper.result_store import ResultStore, StoredResult
from headrace.contract.ids import new_id
from headrace.contract.outcome import Outcome
from headrace.contract.records import Source
from headrace.storage.results_root import open_directory


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ResultStore]:
    root = open_directory(tmp_path)
    store = ResultStore(root)
    store.open()
    yield store
    store.close()
    root.close()


@pytest.fixture
def sets(store: ResultStore) -> ChunkSets:
    return ChunkSets(store.new_part, store.drop_part)


def chunks_of(*values: bytes, attempt: int = 1, offset: int = 0, partition: int = 0, task: str = "") -> list[Outcome]:
    first = Outcome(
        task or new_id(),
        "completed",
        b"",
        attempt=attempt,
        boot="boot",
        node="node",
        source=Source("tasks.normal", 0, 0),
        submitted_ms=0,
        partition=partition,
    )
    return [replace(first, value=v, chunk=i, chunks=len(values), offset=offset + i) for i, v in enumerate(values)]


def whole(store: ResultStore, part: PartialFile | None) -> bytes:
    assert part is not None
    [stored] = store.move_into("demo", [(part, new_id(), ".bin")])
    assert isinstance(stored, StoredResult)
    return (store._root.path / stored.file).read_bytes()


def open_parts(store: ResultStore) -> int:
    return len([p for p in (store._root.path / ".headrace").glob("*/*") if p.name != "lock"])


def test_chunks_in_order_make_the_whole(sets: ChunkSets, store: ResultStore) -> None:
    a, b, c = chunks_of(b"one ", b"two ", b"three")
    assert sets.add_chunk(a, 0) is None
    assert sets.add_chunk(b, 0) is None
    assert whole(store, sets.add_chunk(c, 0)) == b"one two three"
    assert len(sets) == 0


def test_chunks_read_again_change_nothing(sets: ChunkSets, store: ResultStore) -> None:
    a, b, c = chunks_of(b"one ", b"two ", b"three")
    for chunk in (a, a, b, a, b):
        assert sets.add_chunk(chunk, 0) is None
    assert whole(store, sets.add_chunk(c, 0)) == b"one two three"


def test_sets_of_other_attempts_and_boots_are_kept_apart(sets: ChunkSets, store: ResultStore) -> None:
    task = new_id()
    a1, a2 = chunks_of(b"first ", b"attempt", task=task)
    b1, b2 = chunks_of(b"second ", b"attempt", task=task, attempt=2)
    c1, c2 = (
        replace(c, boot="other", value=v)
        for c, v in zip(chunks_of(b"", b"", task=task), (b"other ", b"boot"), strict=True)
    )
    for chunk in (a1, b1, c1):
        sets.add_chunk(chunk, 0)
    assert [whole(store, sets.add_chunk(c, 0)) for c in (a2, b2, c2)] == [
        b"first attempt",
        b"second attempt",
        b"other boot",
    ]


def test_sets_of_copies_from_two_sources_are_kept_apart(sets: ChunkSets, store: ResultStore) -> None:
    task, other_source = new_id(), Source("tasks.normal", 1, 0)
    a1, a2 = chunks_of(b"one ", b"copy", task=task)
    b1, b2 = (replace(c, source=other_source) for c in chunks_of(b"other ", b"whole", task=task))
    assert [sets.add_chunk(c, 0) for c in (a1, b1)] == [None, None]
    assert [whole(store, sets.add_chunk(c, 0)) for c in (b2, a2)] == [b"other whole", b"one copy"]


def test_a_missing_chunk_is_found_at_the_last_one_and_leaves_no_file(sets: ChunkSets, store: ResultStore) -> None:
    a, _, c = chunks_of(b"one ", b"two ", b"three")
    sets.add_chunk(a, 0)
    with pytest.raises(Incomplete):
        sets.add_chunk(c, 0)
    _, b, c = chunks_of(b"one ", b"two ", b"three")
    assert sets.add_chunk(b, 0) is None
    with pytest.raises(Incomplete):
        sets.add_chunk(c, 0)
    assert (len(sets), open_parts(store)) == (0, 0)


def test_the_first_chunk_of_an_open_set_holds_its_partitions_commit_back(sets: ChunkSets) -> None:
    assert sets.commit_limit(0) is None
    a, b = chunks_of(b"1", b"2", offset=10)
    c, *_ = chunks_of(b"1", b"2", offset=5)
    other, *_ = chunks_of(b"1", b"2", offset=1, partition=1)
    for chunk in (a, c, other):
        sets.add_chunk(chunk, 0)
    assert (sets.commit_limit(0), sets.commit_limit(1), sets.commit_limit(2)) == (5, 1, None)
    sets.drop_task(c.id)
    assert sets.commit_limit(0) == 10
    sets.add_chunk(b, 0)
    assert sets.commit_limit(0) is None


def test_a_set_that_cannot_become_whole_holds_no_commit_back(sets: ChunkSets) -> None:
    _, b, _ = chunks_of(b"1", b"2", b"3", offset=10)
    sets.add_chunk(b, 0)
    assert sets.commit_limit(0) is None


class Clocks:
    """What this process's two clocks say; a time in the log is given with each chunk."""

    def __init__(self) -> None:
        self.waited_s = 0.0
        self.wall_s = 10 * ABANDONED_S

    def sets(self, store: ResultStore) -> ChunkSets:
        return ChunkSets(store.new_part, store.drop_part, lambda: self.waited_s, lambda: self.wall_s)


def test_dropped_and_abandoned_sets_leave_no_file(store: ResultStore) -> None:
    clocks = Clocks()
    sets = clocks.sets(store)
    early, *_ = chunks_of(b"1", b"2")
    late, *_ = chunks_of(b"1", b"2")
    sets.add_chunk(early, 0)
    clocks.waited_s = 1
    sets.add_chunk(late, 0)
    clocks.waited_s = ABANDONED_S
    assert sets.drop_abandoned(0, 0) == 0
    clocks.waited_s = ABANDONED_S + 1
    assert sets.drop_abandoned(1, 0) == 0, "another partition's"
    assert sets.drop_abandoned(0, 0) == 1
    assert open_parts(store) == 1
    sets.drop_all()
    assert open_parts(store) == 0


@pytest.mark.parametrize(
    ("waited_s", "log_s", "wall_s", "dropped"),
    [
        (AGREED_S + 1, ABANDONED_S + 1, ABANDONED_S + 1, 1),
        (AGREED_S, ABANDONED_S + 1, ABANDONED_S + 1, 0),
        (AGREED_S + 1, ABANDONED_S, ABANDONED_S + 1, 0),
        (AGREED_S + 1, ABANDONED_S + 1, ABANDONED_S, 0),
        (ABANDONED_S + 1, -ABANDONED_S, -ABANDONED_S, 1),
    ],
)
def test_a_restarted_storekeeper_drops_a_set_earlier_when_both_clocks_agree(
    store: ResultStore, waited_s: float, log_s: float, wall_s: float, dropped: int
) -> None:
    clocks = Clocks()
    sets, (chunk, _) = clocks.sets(store), chunks_of(b"1", b"2")
    began_s = clocks.wall_s
    sets.add_chunk(chunk, int(began_s * 1000))
    clocks.waited_s, clocks.wall_s = waited_s, began_s + wall_s
    assert sets.drop_abandoned(0, int((began_s + log_s) * 1000)) == dropped


def test_a_set_that_changes_its_size_is_never_whole(sets: ChunkSets) -> None:
    a, b, c = chunks_of(b"1", b"2", b"3")
    sets.add_chunk(a, 0)
    with pytest.raises(Incomplete):
        sets.add_chunk(replace(b, chunks=2), 0)
    assert sets.commit_limit(0) is None
    del c
