"""Claims for other nodes that wait aside: made and committed, so that the records behind them go on, and without `go`.

The delegation keeps them and lets each start once a node that runs its kind has room, in the order of their records
within a kind. Their number and size are bounded; beyond that the heads of the partitions wait. Safe from any thread.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from headrace.contract.cluster import Wait
from headrace.contract.journal import Claim
from headrace.contract.submission import Submission

MOST = 1000
MOST_BYTES = 64 * 2**20  # of their submissions


@dataclass(eq=False)
class WaitingClaim:
    """A claim of one task, and since when it waits. `is_effective`: its commit is accepted."""

    claim: Claim
    kind: str
    since_ms: int  # time
    is_effective: bool = False

    @cached_property
    def submission(self) -> Submission:
        return self.claim.tasks[0].submission()

    @property
    def size(self) -> int:
        return len(self.claim.tasks[0].raw)


class WaitingClaims:
    """By the claims' keys, in the order in which they came."""

    def __init__(self, most: int = MOST, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._most, self._now_ms = most, now_ms
        self._waiting: dict[str, WaitingClaim] = {}
        self._lock = threading.Lock()

    def has_room(self, size: int) -> bool:
        """Whether one more task of `size` bytes may wait."""
        with self._lock:
            used = sum(w.size for w in self._waiting.values())
            return len(self._waiting) < self._most and (used + size <= MOST_BYTES or not self._waiting)

    def add(self, claim: Claim, kind: str) -> None:
        """The claim is about to be made; it starts only after `mark_effective`."""
        with self._lock:
            self._waiting[str(claim.key)] = WaitingClaim(claim, kind, self._now_ms())

    def mark_effective(self, claim: Claim) -> bool:
        """Its commit is accepted: it may start. Returns whether the claim waits here."""
        with self._lock:
            waiting = self._waiting.get(str(claim.key))
            if waiting is not None:
                waiting.is_effective = True
            return waiting is not None

    def remove(self, key: str) -> None:
        """The claim starts now, has ended, or is another's; unknown keys do nothing."""
        with self._lock:
            self._waiting.pop(key, None)

    def remove_uncommitted(self, claims: list[Claim]) -> None:
        """Those of them that no commit has made effective are given back."""
        with self._lock:
            for key in map(str, (claim.key for claim in claims)):
                if key in self._waiting and not self._waiting[key].is_effective:
                    del self._waiting[key]

    def has_kind(self, kind: str) -> bool:
        """Whether tasks of that kind wait, which come before any other of it."""
        with self._lock:
            return any(w.kind == kind for w in self._waiting.values())

    def heads(self) -> list[WaitingClaim]:
        """The first of each kind; none of a kind whose first one may not start yet."""
        with self._lock:
            return [w for w in self._first_of_each_kind() if w.is_effective]

    def claims(self) -> list[Claim]:
        with self._lock:
            return [w.claim for w in self._waiting.values()]

    def waits(self) -> list[Wait]:
        """What waits, one for each kind, in words."""
        with self._lock:
            counts = Counter(w.kind for w in self._waiting.values())
            first = self._first_of_each_kind()
        return [_describe(waiting, counts[waiting.kind]) for waiting in first]

    def _first_of_each_kind(self) -> list[WaitingClaim]:
        """Call it with the lock."""
        first: dict[str, WaitingClaim] = {}
        for waiting in self._waiting.values():
            first.setdefault(waiting.kind, waiting)
        return list(first.values())


def _describe(first: WaitingClaim, count: int) -> Wait:
    [task] = first.claim.tasks
    wait = f"{count} tasks wait" if count > 1 else "1 task waits"
    text = (
        f"{wait} aside, of kind {first.kind}, which only other nodes run, until one of those has room: "
        f"{task.id} first; other tasks go on"
    )
    return Wait("aside", first.kind, task.id, first.since_ms, text, str(task.source), count)
