"""What the attempts of one slot print: a named pipe, of which the node keeps the last 256 KiB.

Made by `agents.execution.slot`; the node's event loop reads it, so a task that prints 100 MB fills neither the disk nor
the node's memory, and what it printed last before a crash is kept.
"""

import os
from pathlib import Path

from headrace.storage.attempt_log import LOG_BYTES

_READ_BYTES = 64 * 1024


class AttemptOutput:
    """The reading end of the pipe. A child opens `path` for writing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path, 0o600)
        # Open for writing too: a pipe without a writer is always readable, and the event loop would spin.
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._kept = bytearray()

    def fileno(self) -> int:
        return self._pipe

    def read_available(self) -> bool:
        """Reads up to 64 KiB; False when the pipe was empty."""
        try:
            self._kept += os.read(self._pipe, _READ_BYTES)
        except BlockingIOError:
            return False
        if len(self._kept) > 4 * LOG_BYTES:  # not sooner, because deleting copies
            del self._kept[:-LOG_BYTES]
        return True

    def take_tail(self) -> bytes:
        """The end of what was printed since the last call, at most LOG_BYTES."""
        for _ in range(64):  # bounded: a process that an attempt left behind could print for ever
            if not self.read_available():
                break
        tail = bytes(self._kept[-LOG_BYTES:])
        self._kept.clear()
        return tail

    def close(self) -> None:
        os.close(self._pipe)
        self.path.unlink(missing_ok=True)
