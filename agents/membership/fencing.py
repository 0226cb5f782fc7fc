"""Self-fencing: a node that was frozen past its lease, or that others declared dead, gives up its boot.

A thread checks the clock four times a second. After a gap that other nodes may have taken for a death, the node begins
a new boot at once, so that every outcome of the old boot is dropped. Then the hooks end what belongs to the old boot,
and the last of them writes its death notice. Missed heartbeats alone are no reason: Kafka may be away.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable

from headrace.process.health import Watchdog

from .identity import NodeIdentity

log = logging.getLogger(__name__)

_CHECK_EVERY_S = 0.25
_SHARE_OF_LEASE = 0.9  # the node fences itself before the first reaper may act

# Called with the old boot; returns when the part it is responsible for has ended.
Hook = Callable[[str], None]


def boot_clock() -> float:
    """Seconds that also pass while the machine sleeps, where the system has such a clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Fence:
    """`hooks` are called in order, in the fence's thread: kill the pool's children, then write the death notice."""

    def __init__(
        self, node: NodeIdentity, lease_s: float, hooks: list[Hook], clock: Callable[[], float] = boot_clock
    ) -> None:
        self._node, self._limit_s, self._hooks, self._clock = node, lease_s * _SHARE_OF_LEASE, hooks, clock
        self._checked_at = clock()
        self._new_boot: str | None = None  # during a fencing: already awake while the old boot is being ended
        self._declared_dead: str | None = None
        self._wake = threading.Event()
        self._closing = False
        self._watchdog = Watchdog("self-fencing")
        self._thread = threading.Thread(target=self._run, name="fence", daemon=True)

    def is_awake(self, boot: str) -> bool:
        """False for a boot that was frozen, from the end of the freeze until a new boot has replaced it."""
        return self._closing or boot == self._new_boot or self._clock() - self._checked_at <= self._limit_s

    def start(self) -> None:
        self.arm()
        self._thread.start()

    def arm(self) -> None:
        """From now on a gap counts, and `check_clock` must be called regularly."""
        self._checked_at = self._clock()
        self._node.is_awake = self.is_awake

    def close(self) -> None:
        self._closing = True
        self._wake.set()
        self._thread.join(10)

    def declared_dead(self, boot: str) -> None:
        """To be called when a death notice of `boot` was read; from any thread. Other nodes' boots are ignored."""
        if boot == self._node.boot:
            self._declared_dead = boot
            self._wake.set()

    def check(self) -> str | None:
        """For the node's health: the reason in words when the thread stands still."""
        return self._watchdog.check()

    def check_clock(self) -> None:
        """Fences the node if there was a gap, or if others have declared its boot dead."""
        now = self._clock()
        gap_s = now - self._checked_at
        declared, self._declared_dead = self._declared_dead, None
        if gap_s > self._limit_s:
            self._fence(f"it stood still for {gap_s:.1f} s")
        elif declared == self._node.boot:
            self._fence("others have declared it dead")
        else:
            self._checked_at = now

    def _fence(self, reason: str) -> None:
        """`_checked_at` stays in the past until the boot has changed, so the old boot is never awake again."""
        self._new_boot = str(uuid.uuid4())  # set before it begins, or it would count as frozen while the hooks run
        old = self._node.begin_boot(self._new_boot)
        log.warning(
            "Node %s fences itself: %s. Boot %s is over, %s begins", self._node.name, reason, old, self._node.boot
        )
        for hook in self._hooks:
            try:
                hook(old)
            except Exception:
                log.exception("Boot %s could not be ended cleanly", old)
        self._checked_at = self._clock()
        self._new_boot = None

    def _run(self) -> None:
        while not self._closing:
            self._watchdog.beat()
            self.check_clock()
            self._wake.wait(_CHECK_EVERY_S)
            self._wake.clear()
