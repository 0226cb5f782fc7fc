"""One slot of the node's pool: one child at a time, replaced when it dies, and what it prints.

No two slots share anything, so whatever befalls one child touches no neighbour. Used by `agents.execution.attempt`
(ready, child) and `agents.execution.pool` (start, stop).
"""

import asyncio
import logging
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from agents.execution.child import Child
from agents.execution.output import AttemptOutput
from headrace.child.attempt import HOME, Setup

log = logging.getLogger(__name__)


class PoolSlot:
    """`on_death(slot)` is called in the event loop when the child has died, amid an attempt or idle."""

    def __init__(self, number: int, setup: Setup, folder: Path, on_death: "Callable[[PoolSlot], None]") -> None:
        self.number = number
        self.folder = folder / f"slot-{number}"
        self.folder.mkdir(mode=0o711)
        self.user = setup.user
        self.results = self.own_directory("results")  # what the child writes there is moved away before it is read
        self.output = AttemptOutput(self.folder / "output")
        self._hand_over(self.output.path)
        self._setup = replace(setup, slot=number)
        self._on_death = on_death
        self._renewing = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._token = ""  # with which the child is to tell of its birth; empty when it has
        self.child = self._new_child()
        self.born = 0  # the child's pid as it has told it itself, which may be before we know it

    def own_directory(self, name: str) -> Path:
        """A directory in the slot's folder, open to its child alone; one that is there already is taken."""
        made = self.folder / name
        made.mkdir(mode=0o700, exist_ok=True)
        self._hand_over(made)
        return made

    def new_scratch(self, name: str) -> Path:
        """The next attempt's own directory, to which the slot's `home` leads from now on."""
        made, link, home = self.own_directory(name), self.folder / "home.new", self.folder / HOME
        link.unlink(missing_ok=True)  # of a time when the disk took the link and not its new name
        os.symlink(name, link)
        os.replace(link, home)
        return made

    async def prove(self) -> None:
        """Raises what the next attempt would meet: no child can be made, or the disk takes no scratch."""
        await self.ready()
        self.new_scratch("trial").rmdir()

    def _hand_over(self, path: Path) -> None:
        if self.user is not None:
            os.chown(path, self.user.uid, self.user.gid, follow_symlinks=False)

    @property
    def pids(self) -> set[int]:
        """Of the child that serves the slot."""
        return {self.child.pid, self.born} - {0}

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on the slot belongs to the event loop."""
        self._loop = loop
        self.child.listen(loop)
        loop.add_reader(self.output.fileno(), self.output.read)

    async def ready(self) -> Child:
        """The child, a new one where the last has died."""
        async with self._renewing:
            while self.child.is_dead:
                await asyncio.to_thread(self.child.end)
                self.child = await asyncio.to_thread(self._new_child)
                if self._loop is not None:
                    self.child.listen(self._loop)
            return self.child

    def unlisten(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self.output.fileno())
            self.child.unlisten()
            self._loop = None

    def stop(self) -> None:
        """Ends the child and all below it; after `unlisten`."""
        self.child.end()
        self.output.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def is_birth(self, token: str) -> bool:
        """Whether that is the word of the newest child's birth. A task may send what it likes, but has no token."""
        is_it = bool(token) and token == self._token
        if is_it:
            self._token = ""
        return is_it

    def _new_child(self) -> Child:
        self._token = secrets.token_hex(16)
        return Child(replace(self._setup, token=self._token), lambda: self._on_death(self))
