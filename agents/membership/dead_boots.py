"""Boots that are proved dead, and when their records may leave `nodes`. Pure: fed by the registry, read by the reaper.

Without this a cluster that restarts often would carry every boot it ever had. A boot's records may go one hour after
its death notice, by the log's own clock, unless the caller still knows a claim of that boot. By then every reaper has
judged the claims that the boot held. A claim that turns up later is still reaped: the failure detector gives an unknown
boot one lease and then counts it as dead. Whether a claim is effective is decided in the journal, never here.
"""

from collections.abc import Collection

KEEP_MS = 3_600_000  # as long as the journal keeps its tombstones; far above any lease and any session
_MOST_AT_ONCE = 100


class DeadBoots:
    """Written by one thread, read by another."""

    def __init__(self, keep_ms: int = KEEP_MS) -> None:
        self.keep_ms = keep_ms
        self._died_ms: dict[str, int] = {}
        self._now_ms = 0  # timestamp of the newest record of `nodes`

    def record_heartbeat(self, boot: str, is_dead: bool, at_ms: int) -> None:
        """Takes in a heartbeat or a death notice; `at_ms` is the record's timestamp (Unix time)."""
        self._now_ms = max(self._now_ms, at_ms)
        if is_dead:
            self._died_ms.setdefault(boot, at_ms)

    def forget_boot(self, boot: str) -> None:
        """Drops a boot whose records have left `nodes`."""
        self._died_ms.pop(boot, None)

    def due_for_removal(self, claimed: Collection[str]) -> list[str]:
        """The boots whose records may leave `nodes` now, at most 100; never one in `claimed`."""
        since = self._now_ms - self.keep_ms
        due = [boot for boot, at_ms in list(self._died_ms.items()) if at_ms <= since and boot not in claimed]
        return due[:_MOST_AT_ONCE]
