"""Duration bins: every duration has one, and quantiles are within the promised error."""

import random

from hypothesis import given
from hypothesis import strategies as st

from headrace.contract.duration_bins import MAX_DURATION_MS, RELATIVE_ERROR, bin_of, quantile, value_of


@given(st.integers(min_value=1, max_value=MAX_DURATION_MS))
def test_a_bin_stands_for_its_durations_within_the_error(ms: int) -> None:
    assert abs(value_of(bin_of(ms)) - ms) <= RELATIVE_ERROR * ms * 1.0001


@given(st.integers(min_value=0, max_value=2**62), st.integers(min_value=0, max_value=2**62))
def test_a_longer_duration_is_never_in_a_lower_bin(a: int, b: int) -> None:
    assert (bin_of(min(a, b))) <= bin_of(max(a, b))


def test_quantiles_are_those_of_the_durations() -> None:
    found = sorted(int(random.Random(i).lognormvariate(5, 2)) + 1 for i in range(2001))
    counts: dict[int, int] = {}
    for ms in found:
        counts[bin_of(ms)] = counts.get(bin_of(ms), 0) + 1
    for q in (0.5, 0.9, 0.99):
        exact = found[max(0, round(q * len(found)) - 1)]
        got = quantile(counts, q)
        assert got is not None
        assert abs(got - exact) <= 2 * RELATIVE_ERROR * exact
    assert quantile({}, 0.5) is None
    assert quantile({0: 3}, 0.99) == 0.0
