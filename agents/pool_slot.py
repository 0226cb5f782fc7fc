"""One slot of the node's pool: one child at a time, in a pebble pool of its own.

A pebble pool shares its pipes and locks among its children: one that is killed while it holds them breaks the others,
and so does the end of an idle one. With a pool a slot no neighbour is touched, and a broken pool is simply made anew.
Used by `agents.attempt` (submit, recover) and `agents.pool` (start, stop); `submit` may be called from the event
loop, the others take milliseconds and belong in a thread.
"""

import logging
import os
import shutil
import threading
from concurrent.futures import Future, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

from pebble import ProcessPool

from agents.attempt_output import AttemptOutput
from headrace.child import Ended, Request, Setup, describe_kinds, initialize, run_attempt
from headrace.lean_context import context
from headrace.process_tree import kill_trees

log = logging.getLogger(__name__)

_END_S = 5.0
_SETTLE_S = 0.6  # pebble looks at its children ten times a second: by then it has seen the end of one


class PoolSlot:
    """`pid` is the child that serves the slot, set by the pool as the child tells it; 0 before."""

    def __init__(self, number: int, setup: Setup, folder: Path) -> None:
        self.number = number
        self.folder = folder / f"slot-{number}"
        self.folder.mkdir(mode=0o711)
        self.user = setup.user
        self.results = self.own_directory("results")  # what the child writes there is moved away before it is read
        self.output = AttemptOutput(self.folder / "output")
        self._hand_over(self.output.path)
        self.pid = 0
        self._setup = replace(setup, slot=number)
        self._lock = threading.Lock()
        self._pool = self._new_pool()

    def own_directory(self, name: str) -> Path:
        """A directory in the slot's folder, open to its child alone; one that is there already is taken."""
        made = self.folder / name
        made.mkdir(mode=0o700, exist_ok=True)
        self._hand_over(made)
        return made

    def _hand_over(self, path: Path) -> None:
        if self.user is not None:
            os.chown(path, self.user.uid, self.user.gid, follow_symlinks=False)

    def start(self) -> None:
        """Has the child made now; else the first attempt would wait for it."""
        assert self._pool.active

    def submit(self, request: Request) -> "Future[Ended]":
        """Runs it in the slot's child. The future fails when the child dies (ProcessExpired) or the pool breaks."""
        return self._scheduled(run_attempt, request)

    def describe(self) -> "Future[bytes]":
        """Asks the child for the kinds it has loaded."""
        return self._scheduled(describe_kinds)

    def recover(self, future: "Future[Any]", begun: bool) -> None:
        """After the end of the child that had `future`: returns when the slot is fit for the next attempt.

        With `begun` False the child has not taken it up and may still do so: it goes with its pool.
        """
        if begun:
            wait([future], _SETTLE_S)
        if not future.done() or not self._pool.active:
            # An exit with code 0 goes unnoticed by pebble, and the end of an idle child breaks its pool.
            self._rebuild()

    def stop(self) -> None:
        """Ends the child and all below it, and the pool."""
        if self.pid:
            kill_trees([self.pid])
        self._end_apart(self._pool).join(_END_S)
        self.output.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _scheduled(self, function: Any, *arguments: Any) -> "Future[Any]":
        try:
            return self._pool.schedule(function, args=arguments)
        except RuntimeError:  # an idle child was killed, and its pool broke with it
            self._rebuild()
            return self._pool.schedule(function, args=arguments)

    def _new_pool(self) -> ProcessPool:
        return ProcessPool(max_workers=1, initializer=initialize, initargs=(self._setup,), context=context)

    def _rebuild(self) -> None:
        with self._lock:
            broken, self._pool = self._pool, self._new_pool()
            self._end_apart(broken)
            self.start()

    @staticmethod
    def _end_apart(pool: ProcessPool) -> threading.Thread:
        """Ends a pool in a thread of its own: where a child was killed amid a message, its reader waits for ever."""

        def end() -> None:
            try:
                pool.stop()  # type: ignore[no-untyped-call]
                pool.join()
            except (RuntimeError, OSError) as e:
                log.warning("A slot's pool could not be ended in order: %s", e)

        thread = threading.Thread(target=end, name="pool-end", daemon=True)
        thread.start()
        return thread
