"""What the reaper keeps of the journal: live claims, and which owner has claimed what."""

import uuid
from dataclasses import replace

import pytest

from agents.recovery.journal_state import JournalState
from headrace.contract.journal import Claim, EpochMark
from headrace.contract.records import Outgoing, Record, Source
from headrace.contract.task import Task

ID = "0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a11"


def claim(
    offset: int,
    generation: int,
    boot: str = "a",
    topic: str = "tasks.normal",
    members: int = 1,
    epoch: int | None = None,
) -> Claim:
    tasks = tuple(
        Task(ID, b"{}", attempt=1, source=Source(topic, 3, offset + n), submitted_ms=0) for n in range(members)
    )
    return Claim(tasks, by=boot, for_=boot, generation=generation, epoch=epoch, node="node")


class Journal:
    def __init__(self) -> None:
        self.passed_over = 0
        self.state, self._next = JournalState(self._count), 0

    def _count(self) -> None:
        self.passed_over += 1

    def begin_epoch(self, boot: str = "a") -> int:
        """Writes a mark, and returns the epoch that it gives."""
        self.write(EpochMark(3, boot).encode())
        return self._next - 1

    def is_void(self, claim: Claim, offset: int | None = None) -> bool:
        """Whether a claim that has been written is void, or would be on another offset."""
        source = claim.key.source if offset is None else replace(claim.key.source, offset=offset)
        return self.state.is_void(source, self.state.live[str(claim.key)].ownership)

    def write(self, out: Outgoing) -> None:
        self.state.apply_record(
            Record(
                out.topic, out.partition, self._next, timestamp_ms=0, key=out.key, value=out.value, headers=out.headers
            )
        )
        self._next += 1


@pytest.fixture
def journal() -> Journal:
    return Journal()


def test_a_claim_lives_until_its_own_tombstone(journal: Journal) -> None:
    mine, theirs = claim(7, 1, "a"), claim(7, 2, "b")
    for c in (mine, theirs):
        journal.write(c.encode())
    journal.write(mine.tombstone("void"))
    assert list(journal.state.live) == [str(theirs.key)]


def test_a_claim_is_void_when_a_later_owner_has_pulled_its_record(journal: Journal) -> None:
    first = claim(7, 1, "a", epoch=journal.begin_epoch("a"))
    journal.write(first.encode())
    assert not journal.is_void(first)
    later = claim(7, 2, "b", epoch=journal.begin_epoch("b"))
    journal.write(later.encode())
    assert (journal.is_void(first), journal.is_void(later)) == (True, False)
    journal.write(later.tombstone("done"))
    assert journal.is_void(first)


def test_a_zombies_claim_that_lands_late_is_void_too(journal: Journal) -> None:
    zombie = claim(7, 1, "a", epoch=journal.begin_epoch("a"))
    later = claim(7, 2, "b", epoch=journal.begin_epoch("b"))
    journal.write(later.tombstone("done"))
    journal.write(zombie.encode())
    assert journal.is_void(zombie)


def test_an_owner_counts_for_the_offsets_between_its_claims_and_no_others(journal: Journal) -> None:
    earlier = claim(7, 3, "b", epoch=journal.begin_epoch("b"))
    epoch = journal.begin_epoch()
    for written in (earlier, claim(5, 4, epoch=epoch), claim(9, 4, epoch=epoch)):
        journal.write(written.encode())
    states = {o: journal.is_void(earlier, o) for o in (4, 5, 7, 9, 10)}
    assert states == {4: False, 5: True, 7: True, 9: True, 10: False}
    other = claim(7, 3, "b", "tasks.high", epoch=earlier.epoch)
    journal.write(other.encode())
    assert not journal.is_void(other)


def test_claims_of_a_group_made_anew_are_later_although_its_generations_begin_again(journal: Journal) -> None:
    old = [claim(o, 57, "old", epoch=epoch) for epoch in [journal.begin_epoch("old")] for o in (5, 6, 7)]
    for written in old[:-1]:
        journal.write(written.encode())
    new = [claim(o, 1, "new", epoch=epoch) for epoch in [journal.begin_epoch("new")] for o in (5, 7, 9)]
    for written in (*new, old[-1]):  # the last is a zombie's
        journal.write(written.encode())
    assert [journal.is_void(c) for c in new] == [False, False, False]
    assert [journal.is_void(c) for c in old] == [True, True, True]
    again = claim(10, 57, "newer", epoch=journal.begin_epoch("newer"))  # the new group has come as far
    journal.write(again.encode())
    assert [journal.is_void(c) for c in new] == [False, False, False]


def test_older_claims_without_an_epoch_void_none_of_a_group_made_anew(journal: Journal) -> None:
    old = [claim(o, 57, "old") for o in (5, 9)]
    for written in old:
        journal.write(written.encode())
    new = [claim(o, 1, "new", epoch=epoch) for epoch in [journal.begin_epoch("new")] for o in (5, 7, 9)]
    for written in new:
        journal.write(written.encode())
    journal.write(old[0].tombstone("reaped"))
    assert [journal.is_void(c) for c in new] == [False, False, False]
    assert journal.is_void(old[1])


def test_only_the_tombstone_of_an_older_claim_is_left(journal: Journal) -> None:
    """Compaction has removed a claim without an epoch; its tombstone came when the group had been made anew."""
    new = claim(5, 1, "new", epoch=journal.begin_epoch("new"))
    journal.write(claim(5, 57, "old").tombstone("reaped"))
    journal.write(new.encode())
    assert not journal.is_void(new)


def test_an_older_version_beside_this_one_is_compared_by_generation(journal: Journal) -> None:
    """In one group, during a rolling upgrade: the claim of the version that has pulled the record last counts."""
    mine = claim(5, 58, "new", epoch=journal.begin_epoch("new"))
    for written in (claim(5, 57, "old"), mine, claim(5, 59, "old again"), claim(6, 59, "old again")):
        journal.write(written.encode())
    third = claim(5, 60, "newer", epoch=journal.begin_epoch("newer"))
    assert journal.is_void(mine)
    assert not journal.is_void(claim(5, 59, "old again"))
    journal.write(third.encode())
    journal.write(claim(5, 57, "older", "tasks.normal").encode())  # a zombie's
    assert [journal.is_void(c) for c in (claim(5, 59, "old again"), claim(5, 57, "older"), third)] == [
        True,
        True,
        False,
    ]


def test_memory_of_owners_is_bounded_and_the_earliest_is_forgotten_first(journal: Journal) -> None:
    first = claim(5, 1, "first", epoch=journal.begin_epoch("first"))
    journal.write(first.encode())
    for n in range(1000):
        journal.write(claim(6 + n, 1, f"b{n}", epoch=journal.begin_epoch()).encode())
    assert not journal.is_void(first)
    assert journal.is_void(first, 6 + 999)
    spans = journal.state._ranges._ranges["tasks.normal"]
    assert len(spans) == 1000
    assert min(spans, key=lambda o: o.age).epoch == journal.state.live[str(claim(6, 1, "b0").key)].ownership.epoch


def test_the_responsible_boot_is_the_runner_from_go_on(journal: Journal) -> None:
    handed = replace(claim(1, 1, "owner"), for_="runner")
    journal.write(handed.encode())
    assert journal.state.live[str(handed.key)].responsible == "owner"
    journal.write(handed.go().encode())
    assert journal.state.live[str(handed.key)].responsible == "runner"


def test_a_forged_record_is_counted_and_changes_nothing(journal: Journal) -> None:
    journal.write(Outgoing("tasks.running", b"nonsense", b"{}", (), 3))
    journal.write(Outgoing("tasks.running", str(uuid.uuid4()).encode(), None, (), 3))
    assert journal.state.live == {}
    assert journal.passed_over == 2
