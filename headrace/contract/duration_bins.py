"""Durations counted in logarithmic bins, so that percentiles over any span come from adding counts.

This is DDSketch (Masson, Rim, Lee: DDSketch: A Fast and Fully-Mergeable Quantile Sketch with Relative-Error Guarantees,
PVLDB 12(12), 2019) without its limit on the number of bins. The statistics job counts waits and run times into bins;
readers add the bins of many hours or kinds and ask for a quantile, which is at most RELATIVE_ERROR off. Bin 0 holds
0 ms, bin i > 0 holds GAMMA**(i - 2) < ms <= GAMMA**(i - 1).
"""

import math
from collections.abc import Mapping

RELATIVE_ERROR = 0.02
GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
MAX_DURATION_MS = 366 * 86_400_000  # longer than any attempt; a longer duration counts as this


def bin_of(ms: int) -> int:
    """The bin of a duration in ms."""
    if ms <= 0:
        return 0
    return 1 + math.ceil(math.log(min(ms, MAX_DURATION_MS)) / math.log(GAMMA) - 1e-9)


def value_of(bin: int) -> float:
    """The duration in ms that stands for all in a bin: at most RELATIVE_ERROR from each of them."""
    return 0.0 if bin <= 0 else 2 * GAMMA ** (bin - 1) / (GAMMA + 1)


def quantile(counts: Mapping[int, int], q: float) -> float | None:
    """The q-quantile (q from 0 to 1) in ms of counted durations, bin -> count; None when the counts are empty."""
    total = sum(counts.values())
    if total <= 0:
        return None
    rank, seen = max(1, math.ceil(q * total)), 0
    for bin in sorted(counts):
        seen += counts[bin]
        if seen >= rank:
            return value_of(bin)
    raise AssertionError("the last bin reaches every rank")
