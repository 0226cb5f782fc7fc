"""Ids are asked for in few lengths, whatever their number."""

import pytest

from headrace.storage.sqlite import in_few_lengths


@pytest.mark.parametrize("count", [0, 1, 2, 8, 9, 64, 65, 499, 500, 501, 1203])
def test_all_ids_come_and_no_others_in_parts_of_a_few_lengths(count: int) -> None:
    ids = [n.to_bytes(16) for n in range(count)]
    parts = list(in_few_lengths(ids))
    assert list(dict.fromkeys(i for part in parts for i in part)) == ids
    assert {len(part) for part in parts} <= {1, 8, 64, 500}
