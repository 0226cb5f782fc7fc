"""Self-fencing: a node that was frozen past its lease, or declared dead by others, is not itself any more.

A thread of its own looks at the clock four times a second. After a gap that others may have taken for death the node
gets a new boot id at once (so that all outcomes of the old boot are dropped), then what hangs on the old boot is ended
by the hooks, and only then `dead` is said of it. Missed heartbeats alone are no reason: Kafka may be away.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable

from agents.membership.identity import NodeIdentity
from headrace.process.health import Heart

log = logging.getLogger(__name__)

_TURN_S = 0.25
_SHARE_OF_LEASE = 0.9  # before the first reaper may act

# The hooks get the old boot; each returns when what it is responsible for has ended.
Hook = Callable[[str], None]


def boot_clock() -> float:
    """Seconds that also pass while the machine sleeps, where the system has such a clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Fence:
    """`hooks` are called in order, in the fence's thread: kill the pool's children, then say `dead`."""

    def __init__(
        self, node: NodeIdentity, lease_s: float, hooks: list[Hook], clock: Callable[[], float] = boot_clock
    ) -> None:
        self._node, self._limit_s, self._hooks, self._clock = node, lease_s * _SHARE_OF_LEASE, hooks, clock
        self._last = clock()
        self._fresh: str | None = None  # the new boot, which may speak while the old one is being ended
        self._declared: str | None = None
        self._wake = threading.Event()
        self._closing = False
        self._heart = Heart("self-fencing")
        self._thread = threading.Thread(target=self._run, name="fence", daemon=True)
        self.fenced = 0  # how often it has happened

    def is_awake(self, boot: str) -> bool:
        """False for a boot that has been frozen, until the fence turns and it is over."""
        return self._closing or boot == self._fresh or self._clock() - self._last <= self._limit_s

    def start(self) -> None:
        self.watch()
        self._thread.start()

    def watch(self) -> None:
        """From now on a gap counts, and `look` must be called."""
        self._last = self._clock()
        self._node.is_awake = self.is_awake

    def close(self) -> None:
        self._closing = True
        self._wake.set()
        self._thread.join(10)

    def declared_dead(self, boot: str) -> None:
        """Others have written `dead` of that boot; from any thread."""
        if boot == self._node.boot:
            self._declared = boot
            self._wake.set()

    def check(self) -> str | None:
        return self._heart.check()

    def look(self) -> None:
        """One turn: fences if there was a gap, or a word of others."""
        now = self._clock()
        gap_s = now - self._last
        declared, self._declared = self._declared, None
        if gap_s > self._limit_s:
            self._trip(f"it stood still for {gap_s:.1f} s")
        elif declared == self._node.boot:
            self._trip("others have declared it dead")
        else:
            self._last = now

    def _trip(self, why: str) -> None:
        """Until the boot has changed, the gap stands: the old boot may speak at no moment of it."""
        self._fresh = str(uuid.uuid4())  # before it begins: it must not be taken for frozen while the hooks run
        old = self._node.reborn(self._fresh)
        self.fenced += 1
        log.warning("Node %s fences itself: %s. Boot %s is over, %s begins", self._node.name, why, old, self._node.boot)
        for hook in self._hooks:
            try:
                hook(old)
            except Exception:
                log.exception("What hangs on boot %s could not be ended in order", old)
        self._last = self._clock()
        self._fresh = None

    def _run(self) -> None:
        while not self._closing:
            self._heart.beat()
            self.look()
            self._wake.wait(_TURN_S)
            self._wake.clear()
