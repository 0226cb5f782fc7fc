"""Signal handlers that are safe in a process with threads.

Python runs a handler in the main thread, between any two bytecodes. The main thread may hold the lock of an Event
then, and a handler that sets this Event would wait for ever. So the handler here only puts into a SimpleQueue, which is
reentrant, and a thread does the work.
"""

import signal
import threading
from collections.abc import Callable, Iterable
from queue import SimpleQueue


def on_signals(numbers: Iterable[signal.Signals], act: Callable[[], None]) -> None:
    """Calls `act` in a thread of its own for each of these signals. Must be called in the main thread."""
    received = SimpleQueue[None]()

    def serve() -> None:
        while True:
            received.get()
            act()

    threading.Thread(target=serve, name="signals", daemon=True).start()
    for number in numbers:
        signal.signal(number, lambda *_: received.put(None))
