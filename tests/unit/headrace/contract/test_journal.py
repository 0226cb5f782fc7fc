"""Claims and tombstones: submissions as they came, one partition, one key."""

from dataclasses import replace

import pytest

from headrace.contract.journal import Claim, Tombstone, decode_journal, offsets_to_commit
from headrace.contract.records import Source
from headrace.contract.task import Task
from headrace.errors import Undecodable
from tests.rigs.messages import ID, RAW, TRACE, as_read


def test_a_claim_holds_its_submissions_as_they_came() -> None:
    tasks = tuple(
        Task(
            ID if n == 0 else f"{n:08}-3f0b-4a86-9a3a-5d3c3f7f0a11",
            RAW + b" " * n,
            attempt=1,
            source=Source("tasks.normal", 3, 10 + n),
            submitted_ms=50,
            ledger=(),
            foreign=TRACE,
        )
        for n in range(3)
    )
    claim = Claim(tasks, by="boot-a", for_="boot-b", generation=4, node="node-1")
    read = as_read(claim.encode(), partition=3)
    assert decode_journal(read) == claim
    assert str(claim.key) == f"{ID}:tasks.normal/3/10:boot-a"
    assert (claim.responsible, claim.go().responsible) == ("boot-a", "boot-b")
    assert offsets_to_commit([claim]) == {("tasks.normal", 3): 13}
    with pytest.raises(Undecodable):
        decode_journal(replace(read, partition=4))
    end = decode_journal(as_read(claim.tombstone("done"), partition=3))
    assert isinstance(end, Tombstone)
    assert (end.key, end.generation, end.why) == (claim.key, 0, "done")
