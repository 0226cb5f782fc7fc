"""The node's free slots, counted where threads and the event loop meet.

The intake's thread reserves slots before it claims tasks; the worker agent releases one when its attempt is finished.
While the agent does not run, or an attempt must run alone, no slot can be reserved: the node claims nothing that it
could not start.
"""

import threading
from collections import deque
from collections.abc import Callable


class Slots:
    """A semaphore whose count can be read. All methods are safe from any thread."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._used = 0
        self._open = False
        self._held = False
        self._waiters: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()

    @property
    def free(self) -> int:
        """Slots that can be reserved now; 0 while the worker agent does not run or an attempt runs alone."""
        with self._changed:
            return self._left()

    @property
    def used(self) -> int:
        return self._used

    def reserve(self, most: int) -> int:
        """Reserves up to `most` free slots and returns how many."""
        with self._changed:
            reserved = min(most, self._left())
            self._used += reserved
            return reserved

    def reserve_next(self, on_reserved: Callable[[], None]) -> None:
        """Reserves the next slot that is released, before any other caller.

        `on_reserved` is called then, in the thread that releases the slot; at once if a slot is free.
        """
        with self._changed:
            if self._used < self.total:
                self._used += 1
                on_reserved()
            else:
                self._waiters.append(on_reserved)

    def release(self, count: int = 1) -> None:
        """Gives slots back; ValueError for more than are reserved."""
        with self._changed:
            if count > self._used:
                raise ValueError(f"cannot release {count} slots: {self._used} are in use")
            self._used -= count
            while self._waiters and self._used < self.total:
                self._used += 1
                self._waiters.popleft()()
            self._changed.notify_all()

    @property
    def is_open(self) -> bool:
        return self._open

    def set_open(self, is_open: bool) -> None:
        """True when the worker agent starts, False when it stops."""
        with self._changed:
            self._open = is_open
            self._changed.notify_all()

    def hold(self, is_held: bool) -> None:
        """While True no slot can be reserved: an attempt runs alone, or waits to."""
        with self._changed:
            self._held = is_held
            self._changed.notify_all()

    def wait_free(self, timeout_s: float) -> bool:
        """Whether a slot can be reserved within the time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._left() > 0, timeout_s)

    def _left(self) -> int:
        return max(0, self.total - self._used) if self._open and not self._held else 0
