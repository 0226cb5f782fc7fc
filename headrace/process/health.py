"""Alive is not enough (I8): a role is ready when its parts poll, and its offsets advance while there is lag.

Each part registers a check that gives None or the reason, in words, why the role cannot do its work. `/readyz` of every
role answers from here, and `/healthz` from the process being able to answer at all.
"""

import time
from collections.abc import Callable

Check = Callable[[], str | None]

STALE_S = 8.0  # the contract promises 10 s from losing the ability to saying so
STUCK_S = 5.0  # less: positions are asked for every two seconds only, and the answer takes its time too


class Health:
    """The checks of one role."""

    def __init__(self) -> None:
        self._checks: dict[str, Check] = {}

    def add_check(self, part: str, check: Check) -> None:
        self._checks[part] = check

    def reasons(self) -> list[str]:
        """Empty when the role is able to do its work."""
        found = ((part, check()) for part, check in list(self._checks.items()))
        return [f"{part}: {reason}" for part, reason in found if reason]


class Watchdog:
    """Beaten by a loop at each turn; a loop that hangs is found by its silence."""

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
    """Told of a position and of what lies behind it; says when the position stands still while there is lag."""

    def __init__(self, what: str, stale_s: float = STUCK_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._what, self._stale_s, self._clock = what, stale_s, clock
        self._position: object = None
        self._since = clock()
        self._lag = 0

    def update(self, position: object, lag: int) -> None:
        """`position` is anything that changes when work is done; `lag` counts records not yet worked on."""
        if position != self._position or lag == 0:
            self._position, self._since = position, self._clock()
        self._lag = lag

    def check(self) -> str | None:
        still_s = self._clock() - self._since
        if self._lag and still_s > self._stale_s:
            return f"{self._what} has stood still for {still_s:.0f} s with {self._lag} records to go"
        return None
