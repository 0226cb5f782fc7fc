"""Signals that ask a process of threads for something.

Python runs a handler in the main thread in the midst of anything, also while that holds the lock of an Event, and
whoever sets that Event then waits for ever. So a handler only takes note here, by a queue that may be put to at any
moment, and a thread does what is asked.
"""

import signal
import threading
from collections.abc import Callable, Iterable
from queue import SimpleQueue


def on_signals(numbers: Iterable[signal.Signals], act: Callable[[], None]) -> None:
    """Calls `act` in a thread of its own for each of these signals that comes. For the main thread alone."""
    noted = SimpleQueue[None]()

    def serve() -> None:
        while True:
            noted.get()
            act()

    threading.Thread(target=serve, name="signals", daemon=True).start()
    for number in numbers:
        signal.signal(number, lambda *_: noted.put(None))
