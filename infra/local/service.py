"""One process of the local stack: started, watched, stopped, and killed with its parent.

Kafka, MariaDB and every role are Services; the supervisor and the tests drive them through this class. StartError, with
the last line of the log, for a process that ends before it is ready.
"""

import os
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from headrace.errors import HeadraceError

from .process import kill_group, last_line, start_tied

_POLL_S = 0.02


class StartError(HeadraceError):
    """A process ended before it was ready, or was not ready in time."""


class Service(ABC):
    """A process with a name, a log and a readiness check. Used by one thread at a time."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.log = log
        self.started_at = 0.0  # time.monotonic() of the last start
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Program and arguments."""

    def environ(self) -> Mapping[str, str]:
        return os.environ

    def prepare(self) -> None:  # noqa: B027 - most have nothing to prepare
        """Creates what the process needs; runs before every start."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether it can do its work now. Called often; must answer within about a second."""

    def launch(self) -> None:
        """Starts the process without waiting for it to be ready."""
        self.prepare()
        self._process = start_tied(self.command(), self.log, dict(self.environ()))
        self.started_at = time.monotonic()

    def wait_ready(self, timeout_s: float = 120.0) -> None:
        """Waits until a launched process is ready; StartError when it ends first or takes longer than `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not self.ready():
            if not self.alive:
                raise StartError(f"{self.name} ended during its start: {self.last_line()} (log: {self.log})")
            if time.monotonic() > deadline:
                self.kill()
                raise StartError(
                    f"{self.name} was not ready after {timeout_s:.0f} s: {self.last_line()} (log: {self.log})"
                )
            time.sleep(_POLL_S)

    def start(self, timeout_s: float = 120.0) -> float:
        """Starts it and waits until it is ready; returns the seconds that took. StartError as `wait_ready`."""
        begun = time.monotonic()
        self.launch()
        self.wait_ready(timeout_s)
        return time.monotonic() - begun

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """0 while there is no process."""
        return self._process.pid if self._process is not None and self.alive else 0

    @property
    def returncode(self) -> int | None:
        """As in subprocess: negative for a signal, None while it runs and before its start."""
        return None if self._process is None else self._process.poll()

    def terminate(self) -> None:
        """Sends SIGTERM and does not wait."""
        if self._process is not None and self.alive:
            self._process.terminate()

    def wait(self, timeout_s: float) -> bool:
        """Waits for its end; False when it still runs after `timeout_s`."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self, grace_s: float = 20.0) -> bool:
        """SIGTERM, after `grace_s` SIGKILL to the rest of its group; False when the process had to be killed."""
        self.terminate()
        clean = self.wait(grace_s)
        self.kill()
        return clean

    def kill(self) -> None:
        """SIGKILL to the process and its group, at once."""
        if self._process is not None:
            kill_group(self._process)

    def last_line(self) -> str:
        """The last non-empty line of its log."""
        return last_line(self.log)
