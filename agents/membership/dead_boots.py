"""Boots that are proved dead, and when their records may leave `nodes`: a cluster that restarts often must not carry
every boot it ever had. Pure; fed by the view of `nodes`, asked by the reaper that speaks for all.

A boot may go an hour after its death was written, by the log's own clock, and when no claim is left that the asker
knows of. By then every reaper has judged what it held; should a claim of it still turn up, a boot that nobody has heard
of counts as dead one lease after it was first asked for, so that the claim is reaped all the same. What a claim's
generation decides lies in the journal, never here.
"""

from collections.abc import Collection

KEEP_MS = 3_600_000  # as long as the journal keeps its tombstones; far above any lease and any session
_MOST_AT_ONCE = 100


class DeadBoots:
    """One thread writes, another asks."""

    def __init__(self, keep_ms: int = KEEP_MS) -> None:
        self.keep_ms = keep_ms
        self._died_ms: dict[str, int] = {}
        self._now_ms = 0  # of the newest record of `nodes`

    def heard(self, boot: str, is_dead: bool, at_ms: int) -> None:
        """A heartbeat, or the word that a boot is dead, came into the log at that time."""
        self._now_ms = max(self._now_ms, at_ms)
        if is_dead:
            self._died_ms.setdefault(boot, at_ms)

    def gone(self, boot: str) -> None:
        """Its records have left `nodes`."""
        self._died_ms.pop(boot, None)

    def due(self, claimed: Collection[str]) -> list[str]:
        """Those that may go now; never one that `claimed` names."""
        since = self._now_ms - self.keep_ms
        due = [boot for boot, at_ms in list(self._died_ms.items()) if at_ms <= since and boot not in claimed]
        return due[:_MOST_AT_ONCE]
