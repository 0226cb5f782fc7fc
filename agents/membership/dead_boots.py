"""Boots that are proved dead, and when their records may leave `nodes`. Pure: fed by the registry, read by the reaper.

Without this a cluster that restarts often would carry every boot it ever had. A boot's records may go one hour after
this process has read its death notice, unless the caller still knows a claim of that boot. The hour is this process's
own, because a broker's clock may be wrong by a day. By then every reaper has judged the claims that the boot held. A
claim that turns up later is still reaped: the failure detector gives an unknown boot one lease and then counts it as
dead. Whether a claim is effective is decided in the journal, never here.
"""

import time
from collections.abc import Callable, Collection

KEEP_S = 3600.0  # as long as the journal keeps its tombstones; far above any lease and any session
_MOST_AT_ONCE = 100


class DeadBoots:
    """Written by one thread, read by another."""

    def __init__(self, keep_s: float = KEEP_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.keep_s, self._clock = keep_s, clock
        self._read_at: dict[str, float] = {}  # boot -> when its death notice was read

    def note_death(self, boot: str) -> None:
        """Takes in a death notice, as of now; a repeated one changes nothing."""
        self._read_at.setdefault(boot, self._clock())

    def forget_boot(self, boot: str) -> None:
        """Drops a boot whose records have left `nodes`."""
        self._read_at.pop(boot, None)

    def due_for_removal(self, claimed: Collection[str]) -> list[str]:
        """The boots whose records may leave `nodes` now, at most 100; never one in `claimed`."""
        since = self._clock() - self.keep_s
        due = [boot for boot, read_at in list(self._read_at.items()) if read_at <= since and boot not in claimed]
        return due[:_MOST_AT_ONCE]
