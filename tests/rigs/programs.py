"""Small real programs as Services, for the tests of the code that starts, watches and stops them."""

import sys
from pathlib import Path

from infra.local.service import Service

SLEEP = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(600)"
)


class Program(Service):
    """Runs Python code; ready when its log contains `mark` (by default at once)."""

    def __init__(self, folder: Path, code: str = SLEEP, name: str = "program", mark: str = "") -> None:
        super().__init__(name, folder / f"{name}.log")
        self._code, self._mark = code, mark

    def command(self) -> list[str]:
        return [sys.executable, "-c", self._code]

    def ready(self) -> bool:
        return self.alive and self._mark in self.log.read_text()
