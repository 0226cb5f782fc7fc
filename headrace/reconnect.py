"""When to connect again after a connection was lost: growing pauses, an end to patience, and a line for the user.

Used by `headrace.client` for event streams. The pause is 0.25 s, doubles with each failure up to 5 s, and each is cut
by up to half at random, so that the clients of one gateway do not come back all at once.
"""

import random
import time
from collections.abc import Callable

from headrace.errors import HeadraceError

_FIRST_S, _LONGEST_S = 0.25, 5.0
_STEADY_S = 5.0  # a connection that lived this long was a good one


class Outage:
    """The failures in a row of one connection. `say` gets a line when it is lost, and one when it is back."""

    def __init__(self, patience_s: float, say: Callable[[str], None]) -> None:
        self._patience_s, self._say = patience_s, say
        self._pause_s, self._connected_at = _FIRST_S, 0.0
        self._lost_at: float | None = None
        self._told = False

    def connected(self) -> None:
        """The server has answered. Pauses stay long until the connection has proved to be good."""
        self._connected_at, self._lost_at = time.monotonic(), None
        if self._told:
            self._say("connected again")
            self._told = False

    def end(self) -> None:
        """The connection works: the next failure is the first one of another outage."""
        self._pause_s = _FIRST_S

    def wait(self, why: HeadraceError) -> None:
        """Waits before the next attempt; raises `why` when patience is at its end."""
        now = time.monotonic()
        if self._lost_at is None:
            if now - self._connected_at > _STEADY_S:
                self.end()
            self._lost_at = now
        if now - self._lost_at >= self._patience_s:
            raise why
        if not self._told:
            self._say(f"{why}; trying again for {self._patience_s:.0f} s")
            self._told = True
        time.sleep(self._pause_s * random.uniform(0.5, 1.0))
        self._pause_s = min(_LONGEST_S, self._pause_s * 2)
