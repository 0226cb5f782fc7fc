"""Warnings at most once a minute for each kind: an outage is one line a minute, not fifty a second.

Used by every role for what repeats while Kafka, the disk or a peer is away.
"""

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

_LOG_EVERY_S = 60.0


class Throttle:
    """Lets one message of each kind pass in `every_s`, and counts the others."""

    def __init__(self, every_s: float = _LOG_EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s, self._clock = every_s, clock
        self._last: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def passes(self, kind: str) -> int | None:
        """How many messages were held back since the last that passed, or None when this one is held back too."""
        now = self._clock()
        if now - self._last.get(kind, -1e9) < self._every_s:
            self._held[kind] = self._held.get(kind, 0) + 1
            return None
        self._last[kind] = now
        return self._held.pop(kind, 0)


_throttle = Throttle()


def log_throttled(kind: str, message: str, *args: object) -> None:
    """Logs a warning, once a minute for each `kind`, with the number of warnings held back in between."""
    held = _throttle.passes(kind)
    if held is not None:
        log.warning(message + (f" ({held} more like it since)" if held else ""), *args)
