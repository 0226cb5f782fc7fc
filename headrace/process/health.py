"""Readiness (I8 in docs/invariants.md): the parts of a role poll, and its offsets advance while there is lag.

Each part registers a check, which returns None or the reason why the role cannot work. `/readyz` of every role answers
with these reasons, and with notes: what people should know although the role can work. `/healthz` only shows that the
process answers.
"""

import time
from collections.abc import Callable, Iterable

from headrace.process.throttled_log import log_throttled

Check = Callable[[], str | None]
Notes = Callable[[], Iterable[str]]

STALE_S = 8.0  # /readyz must say within 10 s that a role is stuck
STUCK_S = 5.0  # less, because positions are read only every two seconds, and reading them takes time


class Health:
    """The checks of one role. Checks run in the thread that asks."""

    def __init__(self) -> None:
        self._checks: dict[str, Check] = {}
        self._notes: list[Notes] = []

    def add_check(self, part: str, check: Check) -> None:
        """Registers a check, or replaces the one of the same part."""
        self._checks[part] = check

    def reasons(self) -> list[str]:
        """`part: reason` for every part that cannot work; empty when the role is ready."""
        found = ((part, _ask(part, check)) for part, check in list(self._checks.items()))
        return [f"{part}: {reason}" for part, reason in found if reason]

    def add_notes(self, notes: Notes) -> None:
        """Registers what returns notes for people; they make no role unready."""
        self._notes.append(notes)

    def report(self) -> tuple[int, dict[str, object]]:
        """The HTTP status and the JSON body of `/readyz`."""
        reasons = self.reasons()
        notes = [note for some in self._notes for note in some()]
        return 503 if reasons else 200, {
            "status": "not ready" if reasons else "ready",
            "reasons": reasons,
            "notes": notes,
        }


def _ask(part: str, check: Check) -> str | None:
    """What the check says; that it fails is a reason as well, and takes no answer away from the other checks."""
    try:
        return check()
    except Exception as e:  # noqa: BLE001 - whatever it is, the others must be answered
        log_throttled(f"check of {part}", "the check of %s failed: %r", part, e)
        return f"it cannot be checked: {type(e).__name__}: {e}"


class Watchdog:
    """Notices a loop that hangs: it calls `beat` at each turn, and `check` complains `stale_s` after the last call."""

    def __init__(self, what: str, stale_s: float = STALE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._what, self._stale_s, self._clock = what, stale_s, clock
        self._last: float | None = None

    def beat(self) -> None:
        self._last = self._clock()

    def check(self) -> str | None:
        if self._last is None:
            return f"{self._what} has not begun"
        silent_s = self._clock() - self._last
        return f"{self._what} has been silent for {silent_s:.0f} s" if silent_s > self._stale_s else None


class StallDetector:
    """Notices a consumer that stands still: its position has not changed for `stale_s` while records wait."""

    def __init__(self, what: str, stale_s: float = STUCK_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._what, self._stale_s, self._clock = what, stale_s, clock
        self._position: object = None
        self._since = clock()
        self._lag = 0

    def update(self, position: object, lag: int) -> None:
        """`position` is any value that changes when work is done; `lag` is the number of records that wait."""
        if position != self._position or lag == 0:
            self._position, self._since = position, self._clock()
        self._lag = lag

    def check(self) -> str | None:
        still_s = self._clock() - self._since
        if self._lag and still_s > self._stale_s:
            return f"{self._what} has stood still for {still_s:.0f} s with {self._lag} records to go"
        return None
