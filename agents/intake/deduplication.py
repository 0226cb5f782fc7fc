"""Rule D: of the records with the same (id, attempt) in one partition only the first counts; later ones are dropped.

Used by the intake, one window for each partition of the task topics. The log is the only state: when it gets a
partition, the intake reads the window before the committed offset. Memory is bounded: the window holds fingerprints of
8 bytes in two generations, and drops the older one when the newer is full or old. The fingerprints are BLAKE2b with a
random key for each process, so that nobody can make two ids collide; by chance it happens once in some 10^14 tasks.
"""

import hashlib
import os
import time
from array import array
from collections.abc import Callable

WINDOW_S = 3600.0
# 32 full partitions are read back in 1.5 to 2.6 s and take 4 MB; docs/design/0022 says why not 100,000.
WINDOW_RECORDS = 10_000

_KEY = os.urandom(16)


def fingerprint(task_id: str, attempt: int) -> int:
    """64 bits that stand for (id, attempt); never 0, which marks an empty place in `FingerprintSet`."""
    digest = hashlib.blake2b(f"{task_id}/{attempt}".encode(), digest_size=8, key=_KEY).digest()
    return int.from_bytes(digest, "little") or 1


class FingerprintSet:
    """A set of 64-bit numbers but 0, in some 16 bytes each: open addressing with linear probing, no removal."""

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * 64))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, number: int) -> bool:
        return self._slots[self._find(number)] == number

    def add(self, number: int) -> None:
        at = self._find(number)
        if self._slots[at] == number:
            return
        self._slots[at] = number
        self._count += 1
        if self._count * 3 > len(self._slots) * 2:
            old, self._slots = self._slots, array("Q", bytes(16 * len(self._slots)))
            for kept in old:
                if kept:
                    self._slots[self._find(kept)] = kept

    def _find(self, number: int) -> int:
        """The index of `number`, or of the empty place where it belongs."""
        mask = len(self._slots) - 1
        at = number & mask
        while self._slots[at] not in (0, number):
            at = (at + 1) & mask
        return at


class DedupWindow:
    """The (id, attempt) of one partition's records up to `end`: at least `records` of them, unless older than
    `window_s`.
    """

    def __init__(
        self, records: int = WINDOW_RECORDS, window_s: float = WINDOW_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._records, self._window_s, self._clock = max(1, records), window_s, clock
        self._newer, self._older = FingerprintSet(), FingerprintSet()
        self._since = clock()
        self.end: int | None = None  # one past the last record in the window; None: it holds none

    def has_seen(self, task_id: str, attempt: int) -> bool:
        """Whether a record in the window is the same task at the same attempt."""
        number = fingerprint(task_id, attempt)
        return number in self._newer or number in self._older

    def add_task(self, task_id: str, attempt: int, offset: int) -> None:
        """Adds the record at `offset`. Call it once for each record, in the log's order."""
        self.add_elsewhere(task_id, attempt)
        self.end = offset + 1

    def add_elsewhere(self, task_id: str, attempt: int) -> None:
        """Adds a record of another partition, of which this one's are repeats."""
        if len(self._newer) >= self._records or self._clock() - self._since > self._window_s:
            self._older, self._newer, self._since = self._newer, FingerprintSet(), self._clock()
        self._newer.add(fingerprint(task_id, attempt))
