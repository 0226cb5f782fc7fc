"""When the status view forgets tasks: one small step at a time, between two batches of the projector's thread.

Raises sqlite3.Error.
"""

import time
from collections.abc import Callable

from .pruning import START
from .store import StatusStore

_STEP_EVERY_S = 0.1
_PASS_EVERY_S = 60.0
_PROGRESS_KEPT_MS = 7 * 86_400_000  # the retention of its topic
_DAY_MS = 86_400_000


class Pruner:
    """Removes what ended more than `days` days ago (0: nothing), and progress reports older than a week."""

    def __init__(self, store: StatusStore, days: int, clock: Callable[[], float] = time.time) -> None:
        self._store, self._days, self._clock = store, days, clock
        self._cursor = START
        self._due_at = 0.0

    def turn(self) -> None:
        """Makes a step when one is due."""
        now = self._clock()
        if now < self._due_at and self._due_at - now <= _PASS_EVERY_S:  # or the clock was set back
            return
        more = self._store.prune_progress(int(now * 1000) - _PROGRESS_KEPT_MS)
        if self._days:
            after = self._store.prune_tasks(int(now * 1000) - self._days * _DAY_MS, self._cursor)
            self._cursor, more = after or START, more or after is not None
        self._due_at = now + (_STEP_EVERY_S if more else _PASS_EVERY_S)
