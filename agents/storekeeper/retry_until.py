"""Retries a step until the outside world lets it succeed: Kafka, room on the disk, the results root.

Used by the storekeeper's working thread, and a second one by its takeovers. A step is repeated with growing pauses;
meanwhile `trouble` says, for `/readyz`, what is in its way. `Stopped` when the role ends first.
"""

import logging
import sqlite3
import threading
from collections.abc import Callable
from typing import TypeVar

from confluent_kafka import KafkaException

from headrace.errors import Retryable
from headrace.process.throttled_log import log_throttled
from headrace.storage.sqlite import trouble

log = logging.getLogger(__name__)
T = TypeVar("T")

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 2.0

AGAIN = (OSError, sqlite3.OperationalError, Retryable, KafkaException)  # the next try may succeed


class Stopped(Exception):
    """The role ends during a retry. The step is not done; its records are not committed and will be read again."""


class RetryUntilStopped:
    """`until_done` belongs to one thread; `stop` and `trouble` are safe from any."""

    def __init__(self, beside: "RetryUntilStopped | None" = None) -> None:
        """`beside`: the one of another thread, which is stopped together with this one."""
        self._stop: threading.Event = threading.Event() if beside is None else beside._stop
        self.trouble: str | None = None  # what the current step waits for, in words

    def stop(self) -> None:
        """Ends all waiting, now and later."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def until_done(self, what: str, step: Callable[[], T]) -> T:
        """Calls `step` until it succeeds, and returns its result. Raises Stopped after `stop`.

        OSError, Retryable, KafkaException and sqlite3.OperationalError are retried; others are raised. `what` names the
        part of the outside world that the step depends on, for people.
        """
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                result = step()
            except AGAIN as e:
                self.trouble = f"{what}: {_words(e)}"
                log_throttled(self.trouble, "retrying until it succeeds: %s", self.trouble)
            else:
                if self.trouble is not None:
                    log.info("going on; this is over: %s", self.trouble)
                    self.trouble = None
                return result
            if self._stop.wait(wait_s):
                raise Stopped
            wait_s = min(_LONGEST_WAIT_S, wait_s * 2)


def _words(e: Exception) -> str:
    if isinstance(e, OSError) and e.strerror:
        return e.strerror
    if isinstance(e, KafkaException):
        return str(e.args[0].str())
    if isinstance(e, sqlite3.Error):
        return trouble(e)
    return str(e) or type(e).__name__
