"""A directory that a thread swaps for a symlink and back, again and again, while the code under test uses it."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def swapped(directory: Path, outside: Path) -> Iterator[list[int]]:
    """`directory` is in turn a directory, absent, and a symlink to `outside`; the list's item counts the turns."""
    stop, turns = threading.Event(), [0]
    aside = directory.with_name("aside")

    def put(make: Callable[[], None]) -> None:
        while True:
            try:
                return make()
            except OSError:  # the code under test has made it again meanwhile: move that away
                directory.rename(directory.with_name(f"was-{turns[0]}-{time.monotonic_ns()}"))

    def swap() -> None:
        while not stop.is_set():
            directory.rename(aside)
            put(lambda: directory.symlink_to(outside))
            stop.wait(0.0005)  # so that others meet it
            directory.unlink()
            put(lambda: os.rename(aside, directory))
            stop.wait(0.0005)
            turns[0] += 1

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield turns
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()
