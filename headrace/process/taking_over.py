"""Whether a role knows what it must know of the partitions that its group has given it, before it works on them.

Reaper, receiver and storekeeper keep one each, and give its reason in `/readyz`. Until a role has been whole once it is
not ready. Later a rebalance makes it not ready only when it stays without partitions for `STALE_S`, or when taking over
lasts longer than `GRACE_S`: most last a second, and every node of the group has one when any node comes or goes. Safe
from any thread.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence

from headrace.process.health import STALE_S

Place = tuple[str, int]  # (topic, partition)

GRACE_S = 30.0


class TakingOver:
    """`leave` when the group takes partitions back, `begin` at each assignment, and `end` with the same generation when
    its partitions are known."""

    def __init__(self, progress: Callable[[], str | None], clock: Callable[[], float] = time.monotonic) -> None:
        """`progress` says what the role is at and how far it has come: None at the end of the log."""
        self._progress, self._clock = progress, clock
        self._lock = threading.Lock()  # guards the next four
        self._generation: int | None = None  # None without an assignment
        self._places: tuple[Place, ...] = ()
        self._since: float | None = clock()  # None when nothing is to be taken over
        self._was_whole = False

    def leave(self) -> None:
        """The group has taken the partitions back; an assignment follows."""
        with self._lock:
            self._generation = None
            self._since = self._clock() if self._since is None else self._since

    def begin(self, generation: int, places: Iterable[Place]) -> None:
        """The group has given these partitions. Without any there is nothing to take over."""
        with self._lock:
            self._generation, self._places = generation, tuple(places)
            if not self._places:
                self._since, self._was_whole = None, True
            else:  # `_since` stays: takeovers that rebalances cut short again and again count as one
                self._since = self._clock() if self._since is None else self._since

    def end(self, generation: int) -> None:
        """The partitions of that generation are known. Changes nothing when another generation has begun."""
        with self._lock:
            if generation == self._generation:
                self._since, self._was_whole = None, True

    @property
    def is_under_way(self) -> bool:
        return self._since is not None

    def check(self) -> str | None:
        """For health: None, or which partitions are taken over and how far that has come, in words."""
        with self._lock:
            since, places = self._since, self._places
            is_assigned = self._generation is not None
            if since is None or (self._was_whole and self._clock() - since <= (GRACE_S if is_assigned else STALE_S)):
                return None
            if not is_assigned:
                return "its group has not given it its partitions yet"
        return f"takes over {_names(places)}: {self._progress() or 'has read the log, and takes it in'}"


def _names(places: Sequence[Place]) -> str:
    if len(places) > 3:
        return f"{len(places)} partitions of {' and '.join(sorted({topic for topic, _ in places}))}"
    return ", ".join(f"{topic}/{p}" for topic, p in sorted(places))
