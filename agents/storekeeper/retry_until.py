"""Waiting for what may come back: Kafka, room on the disk, the results root. Used by the storekeeper's one thread.

A step is repeated with growing pauses until it can be done; meanwhile `trouble` says, for `/readyz`, what is in its
way. `Stopped` when the role ends first.
"""

import logging
import sqlite3
import threading
from collections.abc import Callable
from typing import TypeVar

from confluent_kafka import KafkaException

from headrace.errors import Retryable
from headrace.kafka.client import log_throttled

log = logging.getLogger(__name__)
T = TypeVar("T")

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 2.0


class Stopped(Exception):
    """The role ends while something is being waited for; what was begun is not done and will be read again."""


class RetryUntilStopped:
    """`do` belongs to one thread; `stop` and `trouble` may be used from any."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self.trouble: str | None = None  # what is being waited for, in words

    def stop(self) -> None:
        """Ends all waiting, now and later."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def do(self, what: str, step: Callable[[], T]) -> T:
        """Repeats `step` until the outside world lets it be done, and returns what it does; `what` names its part."""
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                done = step()
            except (OSError, sqlite3.OperationalError, Retryable, KafkaException) as e:
                self.trouble = f"{what}: {_words(e)}"
                log_throttled(self.trouble, "waiting until it can go on: %s", self.trouble)
            else:
                if self.trouble is not None:
                    log.info("going on, this is over: %s", self.trouble)
                    self.trouble = None
                return done
            if self._stop.wait(wait_s):
                raise Stopped
            wait_s = min(_LONGEST_WAIT_S, wait_s * 2)


def _words(e: Exception) -> str:
    if isinstance(e, OSError) and e.strerror:
        return e.strerror
    if isinstance(e, KafkaException):
        return str(e.args[0].str())
    return str(e) or type(e).__name__
