"""Durations counted in bins, so that percentiles over any span come from adding counts up.

The statistics job counts waits and run times into bins; readers add the bins of many hours or kinds together and ask
for a quantile, which is at most RELATIVE_ERROR off. Bin 0 is 0 ms; bin i > 0 ends at GAMMA**(i - 1) ms.
"""

import math
from collections.abc import Mapping

RELATIVE_ERROR = 0.02
GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
MAX_DURATION_MS = 366 * 86_400_000  # longer ones, which no attempt can have, count as this


def bin_of(ms: int) -> int:
    """The bin that a duration falls into."""
    if ms <= 0:
        return 0
    return 1 + math.ceil(math.log(min(ms, MAX_DURATION_MS)) / math.log(GAMMA) - 1e-9)


def value_of(bin: int) -> float:
    """The duration, in ms, that stands for a bin."""
    return 0.0 if bin <= 0 else 2 * GAMMA ** (bin - 1) / (GAMMA + 1)


def quantile(counts: Mapping[int, int], q: float) -> float | None:
    """The q-quantile (0 to 1) in ms of what was counted, bin -> count; None when nothing was."""
    total = sum(counts.values())
    if total <= 0:
        return None
    rank, seen = max(1, math.ceil(q * total)), 0
    for bin in sorted(counts):
        seen += counts[bin]
        if seen >= rank:
            return value_of(bin)
    raise AssertionError("the last bin reaches every rank")
