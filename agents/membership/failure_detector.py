"""Who lives: leases of boots, judged by the local receipt of their heartbeats. Pure; the clock is passed in.

Fed by the view of the `nodes` topic, asked by the reaper and the admission. Three things are no death: Kafka away
(then nobody is heard, ourselves included), this process frozen, and a boot that we have not yet watched for one whole
lease. `dead` is for ever, whatever is heard later.
"""

import time
from collections.abc import Callable

from headrace.contract.cluster import Heartbeat

SILENCE_S = 3.0  # nobody heard for so long, though we ourselves beat every second: an outage of Kafka
FREEZE_S = 2.0  # our own loop did not turn for so long


class FailureDetector:
    """Safe from one thread that writes and others that ask."""

    def __init__(self, lease_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_s, self._clock = lease_s, clock
        now = clock()
        self._since = now  # of the leases that are running: none can end before it plus one lease
        self._turned = now
        self._heard_any = now
        self._heard: dict[str, float] = {}
        self._last: dict[str, Heartbeat] = {}
        self._dead: set[str] = set()
        self._said: set[str] = set()  # by us, and perhaps still on its way

    def heard(self, beat: Heartbeat) -> None:
        now = self._clock()
        self._judge_silence(now)
        self._heard_any = now
        if beat.boot in self._dead:
            return
        if beat.state == "dead":
            self._dead.add(beat.boot)
            self._heard.pop(beat.boot, None)
            self._last.pop(beat.boot, None)
            return
        self._heard[beat.boot] = now
        self._last[beat.boot] = beat

    def turn(self) -> None:
        """To be called by the loop that feeds this, several times a second."""
        now = self._clock()
        if now - self._turned > FREEZE_S:
            self._fresh_leases(now)
        self._turned = now
        self._judge_silence(now)

    def is_dead(self, boot: str) -> bool:
        """Proved dead, or its lease is over. A boot never heard of gets one lease from when it is first asked for."""
        if boot in self._dead:
            return True
        now = self._clock()
        if now - self._turned > FREEZE_S or now - self._heard_any > SILENCE_S:
            return False
        heard = max(self._heard.setdefault(boot, now), self._since)
        return now - heard > self._lease_s

    def is_proved_dead(self, boot: str) -> bool:
        """Whether `dead` has been written of it."""
        return boot in self._dead

    def boots(self) -> list[str]:
        """Every boot that was heard and is not proved dead."""
        return list(self._last)

    def last(self, boot: str) -> Heartbeat | None:
        return self._last.get(boot)

    def mark_said(self, boot: str) -> bool:
        """Whether it is the first time that this process says of the boot that it is dead."""
        first = boot not in self._said
        self._said.add(boot)
        return first

    def alive(self) -> dict[str, Heartbeat]:
        """The last heartbeat of each boot that has not died."""
        return {boot: beat for boot, beat in list(self._last.items()) if not self.is_dead(boot)}

    def seen_s(self, boot: str) -> float:
        """Seconds since it was last heard."""
        return self._clock() - self._heard.get(boot, self._since)

    def forget(self, boot: str) -> None:
        """Its key is gone from `nodes`, long after its end."""
        for known in (self._heard, self._last):
            known.pop(boot, None)
        self._dead.discard(boot)
        self._said.discard(boot)

    def _judge_silence(self, now: float) -> None:
        if now - self._heard_any > SILENCE_S:
            self._fresh_leases(now)

    def _fresh_leases(self, now: float) -> None:
        self._since = now
