"""Runs an audit every HEADRACE_AUDIT_S, starts it again when it fails, and says on `/readyz` when it does not go on.

`main` makes one, starts it and stops it. A thread makes the audits. Another watches it: a thread that has ended is
started again. One that hangs cannot be ended: `on_hung` is called, and ends the process, so that it is started again.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable

from confluent_kafka import KafkaException

from headrace.errors import Retryable
from headrace.process.throttled_log import log_throttled

from .auditor import Auditor

log = logging.getLogger(__name__)

_WATCH_S = 1.0
_SILENT_S = 120.0  # every step of an audit ends within a time limit of at most 30 s
_HANGS_S = 300.0
_STOP_S = 15.0
_OUTSIDE = (KafkaException, Retryable, TimeoutError, sqlite3.OperationalError)  # wrong with Kafka, disk or database


class AuditSupervisor:
    """`make_auditor` gets what an auditor must call at each step."""

    def __init__(
        self,
        make_auditor: Callable[[Callable[[], None]], Auditor],
        every_s: float,
        *,
        on_hung: Callable[[str], None] = lambda _: None,
        silent_s: float = _SILENT_S,
        hangs_s: float = _HANGS_S,
    ) -> None:
        """An audit that makes no step for `silent_s`, or fails for so long, makes the role not ready."""
        self._make_auditor, self._every_s, self._on_hung = make_auditor, every_s, on_hung
        self._silent_s, self._hangs_s = silent_s, max(hangs_s, silent_s)
        self._stop = threading.Event()
        self._auditor: Auditor | None = None
        self._stepped_at = self._ended_at = time.monotonic()
        self._trouble: str | None = None  # why the last audit failed
        self._worker = self._new_worker()
        self._watcher = threading.Thread(target=self._watch, name="audit watch", daemon=True)

    def start(self) -> None:
        self._step()
        self._ended_at = self._stepped_at
        self._worker.start()
        self._watcher.start()

    def stop(self) -> None:
        """Returns when the audit has ended, or after 15 s."""
        self._stop.set()
        auditor = self._auditor
        if auditor is not None:
            auditor.ask_to_stop()
        for thread in (self._watcher, self._worker):
            if thread.is_alive():
                thread.join(_STOP_S)
        if not self._worker.is_alive():  # else it waits for Kafka, and ends with the process
            self._close_auditor()

    def check(self) -> str | None:
        """For health: None, or why nobody checks now that no task is lost."""
        if not self._worker.is_alive() and not self._stop.is_set():
            return "its thread has ended, and is started again"
        now = time.monotonic()
        if now - self._stepped_at > self._every_s + self._silent_s:
            return f"has made no step for {now - self._stepped_at:.0f} s"
        if self._trouble is not None and now - self._ended_at > 2 * self._every_s + self._silent_s:
            return f"has not come to an end for {now - self._ended_at:.0f} s: {self._trouble}"
        return None

    def _new_worker(self) -> threading.Thread:
        return threading.Thread(target=self._run, name="audit", daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self._step()
            try:
                if self._auditor is None:
                    self._auditor = self._make_auditor(self._step)
                self._auditor.audit()
            except _OUTSIDE as e:
                self._trouble = str(e)
                log_throttled("audit", "The audit was skipped: %s", e)
            except Exception as e:
                self._trouble = f"{type(e).__name__}: {e}"
                log.exception("The audit has failed, and is started again")
                self._close_auditor()
            else:
                self._trouble, self._ended_at = None, time.monotonic()

    def _watch(self) -> None:
        while not self._stop.wait(_WATCH_S):
            if not self._worker.is_alive():
                log.error("The audit's thread has ended, and is started again")
                self._close_auditor()
                self._worker = self._new_worker()
                self._worker.start()
            elif time.monotonic() - self._stepped_at > self._every_s + self._hangs_s:
                self._on_hung(self.check() or "hangs")
                return

    def _step(self) -> None:
        self._stepped_at = time.monotonic()

    def _close_auditor(self) -> None:
        auditor, self._auditor = self._auditor, None
        if auditor is not None:
            auditor.stop()
