"""What the reaper keeps of the owners of a partition, and what of it goes into a checkpoint."""

import pytest

from agents.recovery.checkpoints import MAX_METADATA
from agents.recovery.claimed_ranges import KEPT_MS, ClaimedRanges
from headrace.contract.ownership import Ownership
from headrace.contract.records import Source
from headrace.errors import Undecodable

OLD = Ownership(None, 4, 30)  # of an older version


def at(offset: int, topic: str = "tasks.normal") -> Source:
    return Source(topic, 3, offset)


def owner(epoch: int) -> Ownership:
    return Ownership(epoch, 1)


def test_ranges_that_were_saved_judge_as_those_that_were_read() -> None:
    ranges = ClaimedRanges()
    ranges.newest_epoch = 50
    for offset, who in [(3, owner(10)), (9, owner(10)), (4, owner(20)), (30, OLD), (31, OLD), (9, owner(50))]:
        ranges.note_claimed(at(offset), who, 1000)
        ranges.note_claimed(at(offset, "tasks.high"), who, 2000)
    saved = ClaimedRanges.decode(ranges.encode(51, ()))
    asked = [*map(owner, (0, 10, 20, 40, 50, 60)), OLD, Ownership(None, 3, 2), Ownership(None, 5, 60)]
    for topic in ("tasks.normal", "tasks.high", "tasks.other"):
        for offset in range(40):
            for who in asked:
                source = at(offset, topic)
                assert saved.is_void(source, who) == ranges.is_void(source, who), (source, who)
    assert saved.newest_epoch == 50
    assert saved.encode(51, ()) == ranges.encode(51, ())


def test_a_reader_that_begins_before_the_newest_mark_reads_it_again() -> None:
    ranges = ClaimedRanges()
    ranges.newest_epoch = 50
    assert ClaimedRanges.decode(ranges.encode(50, ())).newest_epoch == -1


def test_owners_of_more_than_two_hours_ago_stay_only_for_open_claims_of_earlier_ones() -> None:
    ranges = ClaimedRanges()
    ranges.note_claimed(at(1), owner(5), 0)
    ranges.note_claimed(at(2), owner(6), KEPT_MS + 1)

    def voids(open_claims: set[Ownership]) -> bool:
        return ClaimedRanges.decode(ranges.encode(9, open_claims)).is_void(at(1), owner(4))

    assert (voids({owner(4)}), voids({owner(5)}), voids(set())) == (True, False, False)


def test_a_partition_that_goes_from_owner_to_owner_needs_little() -> None:
    """Owners that have pulled the same records again are known by the last one."""
    ranges = ClaimedRanges()
    for epoch in range(900):
        ranges.note_claimed(at(10_000_000), owner(10_000_000 + epoch), 1_764_000_000_000)
    assert len(ranges.encode(20_000_000, ())) < 200


def test_a_hundred_owners_with_large_numbers_fit() -> None:
    ranges = ClaimedRanges()
    for n in range(100):
        who = Ownership(200_000_000 + 3000 * n, 123)
        for offset in (n * 1000, n * 1000 + 999):
            ranges.note_claimed(at(100_000_000 + offset), who, 1_764_000_000_000 + offset)
    assert len(ranges.encode(300_000_000, ())) <= MAX_METADATA


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "[]",
        "{}",
        '{"version": 2, "newest_ms": 0, "newest_epoch": 0, "ranges": {}}',
        '{"version": 1, "newest_ms": -1, "newest_epoch": 0, "ranges": {}}',
        '{"version": 1, "newest_ms": 0, "newest_epoch": 0, "ranges": {"tasks.normal": [[1, 2, 3]]}}',
        '{"version": 1, "newest_ms": 0, "newest_epoch": 0, "ranges": {"tasks.normal": [[1, 2, 3, 4, "5"]]}}',
        '{"version": 1, "newest_ms": 0, "newest_epoch": 0, "ranges": {"tasks.normal": [7]}}',
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(Undecodable):
        ClaimedRanges.decode(text)
