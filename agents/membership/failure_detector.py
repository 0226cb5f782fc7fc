"""Decides which boots are dead: by a death notice, or by a lease on the time since their last heartbeat.

Pure; the clock is passed in. Fed by the registry, asked by the reaper and the admission. Leases are measured from the
local receipt of heartbeats, so clocks of different machines are never compared. Three situations are not a death: an
outage of Kafka (no heartbeat arrives at all, not even our own), a freeze of this process, and a boot that we have
watched for less than one lease. A death notice is final, whatever is read later.
"""

import time
from collections.abc import Callable

from headrace.contract.cluster import Heartbeat

SILENCE_S = 3.0  # no heartbeat of any node for so long, though our own is sent every second: an outage of Kafka
FREEZE_S = 2.0  # the loop that calls `tick` stood still for so long


class FailureDetector:
    """Safe with one thread that writes and others that read."""

    def __init__(self, lease_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_s, self._clock = lease_s, clock
        now = clock()
        self._leases_since = now  # no lease can end before this moment plus one lease
        self._ticked_at = now
        self._any_heartbeat_at = now
        self._heard_at: dict[str, float] = {}
        self._last: dict[str, Heartbeat] = {}
        self._dead: set[str] = set()
        self._announced: set[str] = set()  # declared dead by this process; the notice may still be on its way

    def record_heartbeat(self, beat: Heartbeat) -> None:
        """Takes in a heartbeat or a death notice, as of now."""
        now = self._clock()
        self._renew_leases_after_silence(now)
        self._any_heartbeat_at = now
        if beat.boot in self._dead:
            return
        if beat.state == "dead":
            self._dead.add(beat.boot)
            self._heard_at.pop(beat.boot, None)
            self._last.pop(beat.boot, None)
            return
        self._heard_at[beat.boot] = now
        self._last[beat.boot] = beat

    def tick(self) -> None:
        """Must be called several times a second by the loop that feeds this: a gap between calls is a freeze."""
        now = self._clock()
        if now - self._ticked_at > FREEZE_S:
            self._leases_since = now
        self._ticked_at = now
        self._renew_leases_after_silence(now)

    def is_dead(self, boot: str) -> bool:
        """Whether the boot is proved dead, or its lease is over. An unknown boot gets one lease from the first call."""
        if boot in self._dead:
            return True
        now = self._clock()
        if now - self._ticked_at > FREEZE_S or now - self._any_heartbeat_at > SILENCE_S:
            return False
        heard_at = max(self._heard_at.setdefault(boot, now), self._leases_since)
        return now - heard_at > self._lease_s

    def is_proved_dead(self, boot: str) -> bool:
        """Whether a death notice of the boot was read."""
        return boot in self._dead

    def known_boots(self) -> list[str]:
        """Every boot with a heartbeat and without a death notice."""
        return list(self._last)

    def last_heartbeat(self, boot: str) -> Heartbeat | None:
        """None for an unknown boot, and for one that is proved dead."""
        return self._last.get(boot)

    def live_heartbeats(self) -> dict[str, Heartbeat]:
        """The last heartbeat of each boot that is not dead."""
        return {boot: beat for boot, beat in list(self._last.items()) if not self.is_dead(boot)}

    def mark_announced(self, boot: str) -> bool:
        """Notes that this process declares the boot dead; returns whether it is the first time."""
        is_first = boot not in self._announced
        self._announced.add(boot)
        return is_first

    def forget_boot(self, boot: str) -> None:
        """Drops a boot whose key has left `nodes`, long after its death."""
        self._heard_at.pop(boot, None)
        self._last.pop(boot, None)
        self._dead.discard(boot)
        self._announced.discard(boot)

    def _renew_leases_after_silence(self, now: float) -> None:
        if now - self._any_heartbeat_at > SILENCE_S:
            self._leases_since = now
