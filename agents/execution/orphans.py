"""Orphans of dead children: processes that a task has started in sessions of their own. Found by their new parent.

The forkserver adopts them, being a subreaper; if it was killed too, the node does. Used by `agents.execution.pool`.
"""

import asyncio
import os
from collections.abc import Callable

from headrace.child.context import forkserver_pid
from headrace.child.process_tree import adopt_orphans, kill_trees, processes, reap


class Orphans:
    """`adopts`: the node's process adopts orphans too. It must then start no process but the pool's children."""

    def __init__(self, adopts: bool) -> None:
        self._adopts = adopts
        self._forkserver = 0  # pid, from the last Born notification
        self._lost_forkserver = False  # from then on the node itself adopts orphans

    def start(self) -> None:
        """Call before the forkserver starts."""
        if self._adopts:
            adopt_orphans()

    def note_parent(self, parent: int) -> None:
        """A child was born to that parent: the forkserver, or the node if the forkserver has died meanwhile."""
        if parent != os.getpid():
            self._lost_forkserver |= self._forkserver not in (0, parent)
            self._forkserver = parent

    async def kill_all(self, live_children: Callable[[], set[int]]) -> None:
        """Kills every orphan with its descendants; takes milliseconds. Call it in the event loop.

        `live_children` gives pids that are no orphans. It is called after the search, in the event loop, which alone
        may read notifications: a child sends Born before it leaves the forkserver's session, so every child that the
        search has found is known by then.
        """
        of_forkserver, of_node = await asyncio.to_thread(self._find)
        orphans = (of_forkserver | of_node) - live_children()
        if orphans or of_node:
            await asyncio.to_thread(_kill, orphans, of_node)

    def _find(self) -> tuple[set[int], set[int]]:
        """(children of the forkserver, children of the node) that may be orphans."""
        seen, node = processes(), os.getpid()
        of_forkserver, of_node = set[int](), set[int]()
        forkserver = seen.get(self._forkserver)
        if forkserver is not None:
            of_forkserver = {
                p.pid for p in seen.values() if p.parent == forkserver.pid and p.session != forkserver.session
            }
        # A killed forkserver stays a zombie until the next one is started: the node adopts from its death on.
        if self._adopts and (self._lost_forkserver or forkserver is None or forkserver.zombie):
            of_node = {p.pid for p in seen.values() if p.parent == node and p.session != seen[node].session}
            of_node.discard(forkserver_pid())
        return of_forkserver, of_node


def _kill(orphans: set[int], of_node: set[int]) -> None:
    kill_trees(orphans)
    reap(of_node)
