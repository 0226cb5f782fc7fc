"""Ends a process with everything it has started, whatever that has done to get away (Linux).

Called by the node for an attempt that must stop, by a child for what an attempt left behind, and by the forkserver
when the node is gone. A process counts as below another by its parents, or by the session that the other leads: an
orphan changes its parent, but keeps its session; one that leaves the session keeps a parent, since children and the
forkserver are subreapers. Nothing here fails: who has ended already is simply not there.
"""

import contextlib
import ctypes
import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_ROUNDS = 20  # a process that forks faster than it is killed loses after a few rounds; this many are its end or ours


@dataclass(frozen=True, slots=True)
class Seen:
    """One process as /proc shows it."""

    pid: int
    parent: int
    session: int
    zombie: bool


def set_death_signal(number: int) -> None:
    """Asks the kernel to send this process a signal when the thread that started it ends."""
    _prctl(_PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Makes this process the parent of whatever its descendants leave behind (PR_SET_CHILD_SUBREAPER)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def processes() -> dict[int, Seen]:
    """Every process there is, by pid."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as f:
            # the command, in parentheses, may itself hold spaces and parentheses
            state, parent, _group, session = f.read().rpartition(b")")[2].split()[:4]
            found[int(name)] = Seen(int(name), int(parent), int(session), state == b"Z")
    return found


def below(roots: Iterable[int], seen: dict[int, Seen]) -> set[int]:
    """All descendants of the roots and all members of the sessions they lead, without the roots themselves."""
    roots = set(roots)
    children = defaultdict(list)
    for p in seen.values():
        children[p.parent].append(p.pid)
    found, waiting = set[int](), [*roots, *(p.pid for p in seen.values() if p.session in roots)]
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting.extend(children[pid])
    return found - roots


def kill_trees(roots: Iterable[int], spare: frozenset[int] = frozenset(), with_roots: bool = True) -> None:
    """Kills the roots and everything below them; returns when none is left but zombies. Milliseconds.

    `spare`: pids that stay, with what is below them.
    """
    roots = set(roots)
    if with_roots:
        for pid in roots:
            _kill(pid, signal.SIGSTOP)  # alive they adopt what their victims leave behind: it is found below them
    for turn in range(_ROUNDS):
        if turn:
            time.sleep(0.001 * turn)  # a kill takes a moment to be one
        seen = processes()
        victims = _alive(below(roots, seen) - spare - below(spare, seen) - {os.getpid()}, seen)
        if not victims and with_roots:
            victims = _alive(roots, seen)
        if not victims:
            return
        for pid in victims:
            _kill(pid, signal.SIGSTOP)  # none of them may fork while the others die
        for pid in victims:
            _kill(pid)
    for pid in roots if with_roots else ():
        _kill(pid)


def reap(pids: Iterable[int]) -> None:
    """Takes the ends of adopted processes, which would stay zombies otherwise."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _alive(pids: Iterable[int], seen: dict[int, Seen]) -> set[int]:
    return {pid for pid in pids if pid in seen and not seen[pid].zombie}


def _kill(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, number)


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(AttributeError):  # not Linux: a child then outlives a killed node until its attempt ends
        ctypes.CDLL(None).prctl(option, value)
