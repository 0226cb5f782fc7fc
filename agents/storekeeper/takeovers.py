"""Takes partitions over, beside the work on those that the storekeeper has already: a thread of its own.

The consumer says which partitions a generation of the group has given to this storekeeper, and reads outcomes only of
those that are whole here: the index has all their terminal events. So a partition with a long catch-up holds no other
one back. A new generation makes the thread begin again, from what the index has by then. Errors of Kafka and the disk
are retried; every other error ends the role by `on_failure`.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from headrace.process.taking_over import TakingOver
from headrace.process.throttled_log import log_throttled

from .index_catchup import IndexCatchup
from .retry_until import AGAIN, RetryUntilStopped, Stopped

log = logging.getLogger(__name__)

_FORGET_EVERY_S = 3600.0  # ids are forgotten by the day


class _GivenUp(Exception):
    """The generation is over: its takeover is of no use any more."""


@dataclass(slots=True, eq=False)
class _Takeover:
    generation: int
    partitions: frozenset[int]
    whole: frozenset[int] = frozenset()  # replaced and never changed: other threads read it

    @property
    def left(self) -> frozenset[int]:
        return self.partitions - self.whole


class Takeovers:
    """`start` it, then `close` it before the catch-up and the index. `begin` and `whole` are the consumer's."""

    def __init__(
        self, catchup: IndexCatchup, retry: RetryUntilStopped, on_failure: Callable[[Exception], None]
    ) -> None:
        """`on_failure` is called in this thread, which then ends."""
        self._catchup, self._retry, self._on_failure = catchup, retry, on_failure
        self._changed = threading.Condition()
        self._takeover = _Takeover(-1, frozenset())
        self._taking_over = TakingOver(lambda: retry.trouble or catchup.progress())
        self._closed = False
        self._forget_at = time.monotonic() + _FORGET_EVERY_S  # a takeover forgets by itself
        self._thread = threading.Thread(target=self._run, name="takeovers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ends the takeover that is under way, after its current step."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._retry.stop()
        if self._thread.ident is not None:
            self._thread.join()

    def begin(self, generation: int, partitions: Iterable[int]) -> None:
        """A generation begins with those partitions; generation -1 when this storekeeper has left the group."""
        with self._changed:
            self._takeover = _Takeover(generation, frozenset(partitions))
            self._say(self._takeover)
            self._changed.notify_all()

    def whole(self, generation: int | None) -> frozenset[int]:
        """The partitions whose outcomes may be judged in that generation."""
        takeover = self._takeover
        return takeover.whole if takeover.generation == generation else frozenset()

    def check(self) -> str | None:
        """For the role's health: None, or which partitions wait, for what and for how long."""
        if not self._takeover.left:
            return self._taking_over.check()
        if (trouble := self._retry.trouble) is not None:
            return self._taking_over.check() or trouble
        return self._taking_over.check() or self._catchup.watchdog.check()

    def _say(self, takeover: _Takeover) -> None:
        if takeover.generation < 0:
            self._taking_over.leave()
        elif takeover.left or not takeover.partitions:
            self._taking_over.begin(takeover.generation, [("results", p) for p in sorted(takeover.left)])
        else:
            self._taking_over.end(takeover.generation)

    def _run(self) -> None:
        try:
            while (takeover := self._next()) is not None:
                try:
                    self._retry.until_done("Kafka", partial(self._take_over, takeover))
                except _GivenUp:
                    log.info("generation %d is over: its takeover is given up", takeover.generation)
                    self._retry.trouble = None
        except Stopped:
            log.info("stopped during a takeover: %s", self._retry.trouble)
        except Exception as e:
            log.exception("The storekeeper's takeover has failed")
            self._on_failure(e)

    def _next(self) -> _Takeover | None:
        """Waits for partitions to take over, and forgets old ids meanwhile; None after `close`."""
        with self._changed:
            while not (self._closed or self._takeover.left):
                if not self._changed.wait(max(0.0, self._forget_at - time.monotonic())):
                    self._forget(self._takeover.whole)
            return None if self._closed else self._takeover

    def _forget(self, partitions: frozenset[int]) -> None:
        """What fails is done the next time."""
        self._forget_at = time.monotonic() + _FORGET_EVERY_S
        try:
            self._catchup.forget_old(partitions)
        except AGAIN as e:
            log_throttled("forget", "ids that are too old are forgotten later: %s", e)

    def _take_over(self, takeover: _Takeover) -> None:
        def go_on() -> None:
            if self._closed or self._takeover is not takeover:
                raise _GivenUp

        def on_whole(partition: int) -> None:
            with self._changed:
                go_on()
                takeover.whole |= {partition}
                self._say(takeover)

        go_on()
        wanted = takeover.left
        count = self._catchup.catch_up(wanted, on_whole, go_on)
        log.info("partitions %s: %d terminal events read into the index", sorted(wanted), count)
