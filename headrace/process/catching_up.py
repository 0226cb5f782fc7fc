"""Whether a reader of the log has read what its answers depend on: first by place, up to the ends at its start; later
by time.

`headrace.kafka.follower.Follower` keeps one for each of its threads, and gives its reason in `/readyz`. The reason says
how much is left and how long that takes. Once whole, a reader that is read for (`probed`) becomes late only when it is
a minute behind, and stops being late only when it is no more than ten seconds behind: a burst, or a batch that takes
long, takes no role away from its load balancer. Safe from any thread.
"""

import threading
import time
from collections.abc import Callable, Mapping

from headrace.process.health import STALE_S

LATE_S = 60.0  # behind by more: not ready
IN_TIME_S = 10.0  # behind by less: ready again

Positions = Mapping[tuple[str, int], int]  # (topic, partition) -> next offset


class CatchingUp:
    """`positions` gives the next offset of each place that has been read."""

    def __init__(self, positions: Callable[[], Positions], clock: Callable[[], float] = time.monotonic) -> None:
        self._positions, self._clock = positions, clock
        self._lock = threading.Lock()  # guards the next three: `whole` may run in two threads at a time
        self._starts: Positions = {}
        self._ends: Positions | None = None  # to be reached before the reader is whole; None: not known yet
        self._whole = False
        self._began = clock()
        self._mark: tuple[float, Positions] | None = None  # a probe whose ends have not been reached yet
        self._probed_at = 0.0
        self._late = False

    def begin(self, starts: Positions, ends: Positions) -> None:
        """Reading goes on at `starts`, and the log ends at `ends`. Changes nothing for a reader that is whole."""
        with self._lock:
            if self._whole:
                return
            self._starts, self._ends, self._began = dict(starts), dict(ends), self._clock()

    def begin_again(self) -> None:
        """What was read is void, or the log is another one: the reader is whole at the ends of the next `begin`."""
        with self._lock:
            self._whole, self._ends, self._mark, self._late = False, None, None, False

    def probed(self, ends: Positions) -> None:
        """The log ends there now. To be called every few seconds, for lag by time."""
        now = self._clock()
        if now - self._probed_at > STALE_S:  # Kafka was away: nothing could be read
            self._mark = None
        self._probed_at = now
        if self._mark is not None and self._reached(self._mark[1]):
            self._late = self._late and now - self._mark[0] > IN_TIME_S
            self._mark = None
        if self._mark is None:
            self._mark = now, dict(ends)
        elif now - self._mark[0] > LATE_S:
            self._late = True

    def whole(self) -> bool:
        """Whether everything has been read that the log held at the start."""
        with self._lock:
            if not self._whole and self._ends is not None and self._reached(self._ends):
                self._whole = True
            return self._whole

    def check(self) -> str | None:
        """For health: None, or how far the reader has come, in words."""
        if not self.whole():
            return self._progress()
        mark = self._mark
        if self._late and mark is not None:
            return f"is {self._clock() - mark[0]:.0f} s behind the log, and ready again at {IN_TIME_S:.0f} s"
        return None

    def _progress(self) -> str:
        ends, positions = self._ends, self._positions()
        if ends is None:
            return "has not learnt from Kafka yet where the log ends"
        sizes = {place: max(0, end - self._starts.get(place, 0)) for place, end in ends.items()}
        left = {p: max(0, ends[p] - max(positions.get(p, 0), self._starts.get(p, 0))) for p in ends}
        total, to_go = sum(sizes.values()), sum(left.values())
        read, took_s = total - to_go, self._clock() - self._began
        percent = 100 * read // total if total else 100
        estimate = f", about {took_s * to_go / read + 1:.0f} s left" if read > 0 and took_s > 0 else ""
        return f"reads the log: {min(percent, 99)} %, {to_go:,} records to go{estimate}"

    def _reached(self, ends: Positions) -> bool:
        positions = self._positions()
        return all(positions.get(place, 0) >= end for place, end in ends.items())
