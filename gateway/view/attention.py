"""Which partitions somebody waits for now: what the gateway follows closely. All else it reads in batches.

A listener or a request that waits holds its partitions with `on`; a request whose client will ask again keeps them for
some seconds with `keep`. The close readers ask what to read. Safe from any thread; nothing here fails.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager

from headrace.contract.records import Place

CLOSE_S = 0.1  # after that the close readers have caught up with a partition


class Attention:
    """The partitions, since when they have had attention, and until when at least."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._holders: dict[Place, int] = {}
        self._kept_until: dict[Place, float] = {}
        self._since: dict[Place, float] = {}

    @contextmanager
    def on(self, places: Collection[Place]) -> Iterator[None]:
        """These have attention as long as the context lasts."""
        self._attend(places, 1, 0.0)
        try:
            yield
        finally:
            with self._changed:
                for place in places:
                    self._holders[place] -= 1
                    if not self._holders[place]:
                        del self._holders[place]

    def keep(self, places: Collection[Place], for_s: float) -> None:
        """These have attention for that long from now on."""
        self._attend(places, 0, self._clock() + for_s)

    def is_close(self, places: Collection[Place]) -> bool:
        """Whether these have had attention for so long that the view lacks nothing of theirs but the very newest."""
        with self._changed:
            now = self._clock()
            self._forget(now)
            return all(now - self._since.get(place, now) >= CLOSE_S for place in places)

    def places(self, from_s: float, to_s: float) -> set[Place]:
        """Those that have had attention for at least `from_s` and less than `to_s` seconds."""
        with self._changed:
            now = self._clock()
            self._forget(now)
            return {place for place, since in self._since.items() if from_s <= now - since < to_s}

    def wait(self, stopped: Callable[[], bool], timeout_s: float) -> None:
        """Returns when attention has been asked for anew, after `timeout_s`, or at the next `wake` once `stopped`.

        Without any attention it waits without a limit.
        """
        with self._changed:
            if not stopped():
                self._forget(self._clock())
                self._changed.wait(timeout_s if self._since else None)

    def wake(self) -> None:
        """Ends all waiting."""
        with self._changed:
            self._changed.notify_all()

    def _attend(self, places: Iterable[Place], holders: int, until: float) -> None:
        with self._changed:
            now = self._clock()
            self._forget(now)
            is_new = False
            for place in places:
                if place not in self._since:
                    self._since[place], is_new = now, True
                if holders:
                    self._holders[place] = self._holders.get(place, 0) + holders
                if until > self._kept_until.get(place, 0.0):
                    self._kept_until[place] = until
            if is_new:
                self._changed.notify_all()

    def _forget(self, now: float) -> None:
        for place in [p for p in self._since if p not in self._holders and self._kept_until.get(p, 0.0) <= now]:
            del self._since[place]
            self._kept_until.pop(place, None)
