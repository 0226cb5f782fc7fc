"""One slot of the node's pool: one child at a time, replaced when it dies, and the pipe that it prints into.

Slots share nothing, so the death of one child affects no other slot. Used by `agents.execution.attempt` (`ready_child`)
and `agents.execution.pool` (`attach`, `stop`).
"""

import asyncio
import logging
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from headrace.child.process_tree import start_time
from headrace.child.zygote import Setup

from .child import Child
from .output import AttemptOutput

log = logging.getLogger(__name__)


class PoolSlot:
    """Makes its first child at once. `on_death(slot)` is called in the event loop when a child dies, busy or idle."""

    def __init__(self, number: int, setup: Setup, folder: Path, on_death: "Callable[[PoolSlot], None]") -> None:
        self.number = number
        self.folder = folder / f"slot-{number}"
        self.folder.mkdir(mode=0o711)
        self.user = setup.user
        self.results = self.make_directory("results")  # result files are moved away from here before they are read
        self.output = AttemptOutput(self.folder / "output")
        self._give_to_user(self.output.path)
        self._setup = replace(setup, slot=number)
        self._on_death = on_death
        self._renewal_lock = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._token = ""  # proves the Born notification of the newest child; empty once that has come
        self.child = self._new_child()
        self._born = (0, 0)  # pid and start time of the newest child, whose Born may come before `child` is set

    def make_directory(self, name: str) -> Path:
        """A directory in the slot's folder that only its child's user may enter. It may exist already."""
        made = self.folder / name
        made.mkdir(mode=0o700, exist_ok=True)
        self._give_to_user(made)
        return made

    async def probe(self) -> None:
        """Raises what the next attempt would meet: no child can be started, or the disk takes no scratch directory."""
        await self.ready_child()
        self.make_directory("trial").rmdir()

    def _give_to_user(self, path: Path) -> None:
        if self.user is not None:
            os.chown(path, self.user.uid, self.user.gid, follow_symlinks=False)

    @property
    def pids(self) -> set[int]:
        """Pids of the slot's child: two while a new one is being made."""
        return {self.child.pid, self._born[0]} - {0}

    def own_pids(self) -> set[int]:
        """Those of `pids` that no other process has by now, and the newest runner's; for `kill_trees`."""
        pid, started = self._born
        return self.child.own_pids() | ({pid} if pid and start_time(pid) in (0, started) else set())

    def note_birth(self, pid: int) -> None:
        """The newest child, whose token was accepted, has this pid."""
        self._born = pid, start_time(pid)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on the slot belongs to the event loop."""
        self._loop = loop
        self.child.attach(loop)
        loop.add_reader(self.output.fileno(), self.output.read_available)

    async def ready_child(self) -> Child:
        """The live child: a new one if the last has died. Raises OSError when none can be started."""
        async with self._renewal_lock:
            while self.child.is_dead:
                await asyncio.to_thread(self.child.end)
                self.child = await asyncio.to_thread(self._new_child)
                if self._loop is not None:
                    self.child.attach(self._loop)
            return self.child

    def detach(self) -> None:
        """Leaves the event loop."""
        if self._loop is not None:
            self._loop.remove_reader(self.output.fileno())
            self.child.detach()
            self._loop = None

    def stop(self) -> None:
        """Ends the child and its descendants and removes the slot's folder; after `detach`."""
        self.child.end()
        self.output.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def accept_birth(self, token: str) -> bool:
        """Whether the token proves that the newest child was born. It does so once: a task never learns a token."""
        is_valid = bool(token) and token == self._token
        if is_valid:
            self._token = ""
        return is_valid

    def _new_child(self) -> Child:
        self._token = secrets.token_hex(16)
        return Child(replace(self._setup, token=self._token), lambda: self._on_death(self))
