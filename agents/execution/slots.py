"""The node's free slots, counted where threads and the event loop meet.

The intake thread reserves before it claims; the worker agent gives back when an attempt has been finished. While the
agent is not at work, or an attempt has to run alone, nothing can be reserved, so that nothing is claimed that would not
run.
"""

import threading
from collections import deque
from collections.abc import Callable


class Slots:
    """A semaphore that can be looked at. All methods are safe from any thread."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._used = 0
        self._open = False
        self._held = False
        self._next: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()

    @property
    def free(self) -> int:
        """Slots that may be reserved now; 0 while the worker agent is not at work or an attempt runs alone."""
        with self._changed:
            return self._left()

    @property
    def used(self) -> int:
        return self._used

    def reserve(self, most: int) -> int:
        """Takes up to `most` free slots and says how many."""
        with self._changed:
            taken = min(most, self._left())
            self._used += taken
            return taken

    def reserve_next(self, given: Callable[[], None]) -> None:
        """Takes the next slot that falls free, before anybody else; `given` is called then, from any thread."""
        with self._changed:
            if self._used < self.total:
                self._used += 1
                given()
            else:
                self._next.append(given)

    def release(self, count: int = 1) -> None:
        with self._changed:
            if count > self._used:
                raise ValueError(f"{count} slots given back, {self._used} in use")
            self._used -= count
            while self._next and self._used < self.total:
                self._used += 1
                self._next.popleft()()
            self._changed.notify_all()

    @property
    def is_open(self) -> bool:
        return self._open

    def set_open(self, is_open: bool) -> None:
        """True when the worker agent begins its work, False when it stops."""
        with self._changed:
            self._open = is_open
            self._changed.notify_all()

    def hold(self, is_held: bool) -> None:
        """While it is True nothing more can be reserved: an attempt waits to have the node for itself."""
        with self._changed:
            self._held = is_held
            self._changed.notify_all()

    def wait_free(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._left() > 0, timeout_s)

    def _left(self) -> int:
        return max(0, self.total - self._used) if self._open and not self._held else 0
