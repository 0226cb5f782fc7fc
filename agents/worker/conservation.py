"""The node's conservation check: its open claims in the journal are the jobs that its parts hold, and no others.

Finds what no rule foresaw: a claim that no part of the node knows would stay open as long as the boot lives, its task
neither running nor ended; and an attempt without a claim would be lost with the node. A difference that lasts for
`LIMIT_S` is said on `/readyz`, logged with its ids and counted. The reaper mends it once the boot has ended. Nothing is
said while Kafka is away or refuses records. A claim with several tasks counts as known while one of them is.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping

from ..execution.job import Key
from ..monitoring.protocol_metrics import ProtocolMetrics

log = logging.getLogger(__name__)

LIMIT_S = 45.0  # the answer is there within a minute; claims are written, started and ended in a fraction of that
_LOOK_EVERY_S = 5.0
_READ_S = 5.0  # for the journal to be read to its end

_Difference = tuple[str, str]  # "claim" or "attempt", and its key in words


class Conservation:
    """`claims`: the jobs of each open claim of this boot. `held`: the jobs that its parts hold. `attempts`: those
    among them that the worker agent has, whose claims must be in the journal. All three are asked in the event loop.

    `read_journal` is called in a thread with a time limit in seconds: whether the journal has been read to its end.
    `trouble`: why records cannot be sent now, or None.
    """

    def __init__(
        self,
        claims: Callable[[], Mapping[str, frozenset[Key]]],
        held: Callable[[], set[Key]],
        attempts: Callable[[], set[Key]],
        *,
        read_journal: Callable[[float], bool],
        trouble: Callable[[], str | None],
        metrics: ProtocolMetrics,
        limit_s: float = LIMIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._claims, self._held, self._attempts = claims, held, attempts
        self._read_journal, self._trouble = read_journal, trouble
        self._metrics, self._limit_s, self._clock = metrics, limit_s, clock
        self._since: dict[_Difference, float] = {}
        self._found: set[_Difference] = set()

    async def run(self) -> None:
        """Looks every few seconds, until it is cancelled."""
        while True:
            try:
                await self.look()
            except Exception:
                log.exception("The node's claims could not be compared with its jobs")
            await asyncio.sleep(_LOOK_EVERY_S)

    async def look(self) -> None:
        """Compares once. What differs for long is compared again after the journal has been read to its end."""
        late = self._late()
        if not late:
            self._found.clear()
        elif self._trouble() is None and await asyncio.to_thread(self._read_journal, _READ_S):
            self._say(late & self._late())

    def check(self) -> str | None:
        """For `/readyz`: the difference in words, or None."""
        words = [
            _words([key for what, key in sorted(self._found) if what == wanted], said)
            for wanted, said in (
                ("claim", "claims are open whose tasks no part of the node knows"),
                ("attempt", "attempts run here whose claims are not in the journal"),
            )
        ]
        return "; ".join(w for w in words if w) or None

    def _late(self) -> set[_Difference]:
        """The differences that have lasted for the limit."""
        now, claims, held = self._clock(), self._claims(), self._held()
        claimed = {key for jobs in claims.values() for key in jobs}
        unclaimed = self._attempts() - claimed
        found = {("claim", key) for key, jobs in claims.items() if not jobs & held}
        found |= {("attempt", f"{task_id}:{attempt}:{source}") for task_id, attempt, source in unclaimed}
        self._since = {difference: self._since.get(difference, now) for difference in found}
        return {difference for difference, since in self._since.items() if now - since >= self._limit_s}

    def _say(self, found: set[_Difference]) -> None:
        for what, key in sorted(found - self._found):
            self._metrics.unaccounted.labels(what).inc()
            log.error("A %s is not accounted for, for %.0f s: %s", what, self._limit_s, key)
        self._found = found


def _words(keys: Iterable[str], said: str) -> str:
    some = list(keys)
    return f"{said} ({len(some)}, such as {some[0]}): restart the node, and they run again" if some else ""
