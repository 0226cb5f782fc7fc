"""A node in a process of its own that a test may kill, stop and continue."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from headrace.settings import Settings


class Victim:
    """Starts at once; `wait` for a line that it prints. `failpoints`: place -> ("kill" or "stop", the nth time)."""

    def __init__(
        self,
        settings: Settings,
        name: str = "node-1",
        slots: int = 2,
        attempts: str = "hold",
        failpoints: dict[str, tuple[str, int]] | None = None,
        fence: bool = False,
        tiny: Sequence[str] = (),
    ) -> None:
        options: dict[str, Any] = {
            "kafka": settings.kafka,
            "prefix": settings.topic_prefix,
            "data": str(settings.data),
            "fence": fence,
            "lease_s": settings.lease_s,
            "keep_s": settings.keep_s,
            "name": name,
            "slots": slots,
            "attempts": attempts,
            "failpoints": failpoints or {},
            "tiny": list(tiny),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.processes.node_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(options) + "\n")
        self._process.stdin.flush()
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def wait(self, start: str, timeout_s: float = 60) -> str:
        """Returns the next line that begins with `start`, and skips the lines before it."""
        while True:
            line = self._lines.get(timeout=timeout_s)
            if line.startswith(start):
                return line

    def has(self, start: str, timeout_s: float = 0.2) -> bool:
        """Whether it prints a line that begins with `start` within that time."""
        try:
            self.wait(start, timeout_s)
        except queue.Empty:
            return False
        return True

    def write_line(self, line: str) -> None:
        """Writes to its standard input: attempts that `wait` end."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(60)

    def stop(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def wait_end(self) -> None:
        self._process.wait(60)

    def close(self) -> None:
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> "Victim":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                self._lines.put(line.strip())
        except ValueError:
            pass  # closed at the end of the test
