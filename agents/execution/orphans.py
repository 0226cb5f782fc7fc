"""What the tasks of dead children have left behind in sessions of their own: found by who has adopted it, and killed.

The forkserver adopts it, being a subreaper; where that was killed too, the node does. Used by the pool.
"""

import os
from collections.abc import Callable

from headrace.child.context import forkserver_pid
from headrace.child.process_tree import adopt_orphans, kill_trees, processes, reap


class Orphans:
    """`adopts`: this process is the node's own, and starts nothing but the pool: what it adopts is a task's."""

    def __init__(self, adopts: bool) -> None:
        self._adopts = adopts
        self._forkserver = 0
        self._lost_forkserver = False  # from then on its orphans are the node's

    def begin(self) -> None:
        """Before the forkserver is started."""
        if self._adopts:
            adopt_orphans()

    def born(self, parent: int) -> None:
        """A child has been born, to that parent."""
        if parent != os.getpid():  # else its forkserver has died meanwhile, and it will too
            self._lost_forkserver |= self._forkserver not in (0, parent)
            self._forkserver = parent

    def kill(self, children: Callable[[], set[int]]) -> None:
        """Kills all of them. `children` is asked after they were looked for: a child tells of its birth before it
        leaves the forkserver's session, so those that live are known by then."""
        seen, me = processes(), os.getpid()
        strays, ours = set[int](), set[int]()
        forkserver = seen.get(self._forkserver)
        if forkserver is not None:
            strays = {p.pid for p in seen.values() if p.parent == forkserver.pid and p.session != forkserver.session}
        # Killed, it stays a zombie until the next one is started: what it had adopted is ours from its death on.
        if self._adopts and (self._lost_forkserver or forkserver is None or forkserver.zombie):
            ours = {p.pid for p in seen.values() if p.parent == me and p.session != seen[me].session}
            ours.discard(forkserver_pid())
        kill_trees((strays | ours) - children())
        reap(ours)
