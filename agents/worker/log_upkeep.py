"""Removes logs of attempts that are older than HEADRACE_LOG_DAYS, in a thread of the worker.

The worker does it, and not the storekeeper, because it wrote them: it has the rights to remove them, and it also
reaches those of a node that does not share the results root. Workers that share it do the same work several times, so
it is small: some hundred files a second, and an hour of rest after each round. Trouble is logged and tried again.
"""

import contextlib
import itertools
import logging
import threading
import time
from pathlib import Path

from headrace.storage.old_logs import remove_old_logs

log = logging.getLogger(__name__)

_DAY_S = 86_400
_TURN_STEPS, _TURN_S = 1000, 1.0  # so much, then so long a rest: 1 to 5 % of a CPU on a local disk
_ROUND_S = 3600.0


class LogUpkeep:
    """`start` it, then `close` it."""

    def __init__(self, results_root: Path, keep_days: int, turn_s: float = _TURN_S, round_s: float = _ROUND_S) -> None:
        """`keep_days`: 0 = nothing is ever removed. `turn_s`, `round_s`: rests after a turn and after a round."""
        self._root, self._keep_days = results_root.resolve(), keep_days
        self._turn_s, self._round_s = turn_s, round_s
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-upkeep", daemon=True)

    def start(self) -> None:
        if self._keep_days:
            self._thread.start()

    def close(self) -> None:
        """Waits for the step that is under way, but not for a results root that does not answer."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def _run(self) -> None:
        rest_s = 0.0
        while not self._closing.wait(rest_s):
            self._remove_old()
            rest_s = self._round_s

    def _remove_old(self) -> None:
        """One round through all logs, turn by turn."""
        removed = 0
        steps = remove_old_logs(self._root, time.time() - self._keep_days * _DAY_S)
        with contextlib.closing(steps):
            while turn := list(itertools.islice(steps, _TURN_STEPS)):
                removed += sum(turn)
                if self._closing.wait(self._turn_s):
                    break
        if removed:
            log.info("Removed %d logs of attempts that were older than %d days", removed, self._keep_days)
