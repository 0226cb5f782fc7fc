"""What the reaper keeps of the journal: live claims, and which generation has claimed what."""

import uuid
from dataclasses import replace

import pytest

from agents.recovery.journal_state import JournalState
from headrace.contract.journal import Claim
from headrace.contract.records import Outgoing, Record, Source
from headrace.contract.task import Task

ID = "0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a11"


def claim(offset: int, generation: int, boot: str = "a", topic: str = "tasks.normal", members: int = 1) -> Claim:
    tasks = tuple(
        Task(ID, b"{}", attempt=1, source=Source(topic, 3, offset + n), submitted_ms=0) for n in range(members)
    )
    return Claim(tasks, by=boot, for_=boot, generation=generation, node="node")


class Journal:
    def __init__(self) -> None:
        self.passed_over = 0
        self.state, self._next = JournalState(self._count), 0

    def _count(self) -> None:
        self.passed_over += 1

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


def test_a_claim_is_void_when_a_later_generation_has_pulled_its_record(journal: Journal) -> None:
    journal.write(claim(7, 1, "a").encode())
    assert not journal.state.is_void(Source("tasks.normal", 3, 7), 1)
    later = claim(7, 2, "b")
    journal.write(later.encode())
    journal.write(later.tombstone("done"))
    assert journal.state.is_void(Source("tasks.normal", 3, 7), 1)
    assert not journal.state.is_void(Source("tasks.normal", 3, 7), 2)


def test_a_zombies_claim_that_lands_late_is_void_too(journal: Journal) -> None:
    later = claim(7, 2, "b")
    journal.write(later.encode())
    journal.write(later.tombstone("done"))
    journal.write(claim(7, 1, "a").encode())
    assert journal.state.is_void(Source("tasks.normal", 3, 7), 1)


def test_a_generation_counts_for_the_offsets_between_its_claims_and_no_others(journal: Journal) -> None:
    for offset in (5, 9):
        journal.write(claim(offset, 4).encode())
    states = {o: journal.state.is_void(Source("tasks.normal", 3, o), 3) for o in (4, 5, 7, 9, 10)}
    assert states == {4: False, 5: True, 7: True, 9: True, 10: False}
    assert not journal.state.is_void(Source("tasks.high", 3, 7), 3)


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
