"""Kills a process with all its descendants, also those that have tried to detach themselves (Linux).

Called by the node for a child that must end, by a child for what an attempt left behind, and by the forkserver after
the node's end. A process descends from another through its parents or through the session that the other leads:
an orphan changes its parent but keeps its session, and a process that leaves the session keeps an ancestor, because
children and the forkserver are subreapers. Nothing here fails: a process that has ended is not found.

The system's functions are bound by name when this is imported, which is before any module with task kinds: one that
patches `os.getpid` must not have a child take the whole machine for its own descendants.
"""

import contextlib
import ctypes
import signal
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from os import P_ALL, WEXITED, WNOHANG, WNOWAIT, getpid, getppid, kill, listdir, waitid, waitpid
from time import sleep

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None)
_ROUNDS = 20  # a few rounds beat a process that forks while it is killed; after this many we give up


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """One process as /proc/<pid>/stat shows it."""

    pid: int
    parent: int
    session: int
    zombie: bool


def set_death_signal(number: int) -> None:
    """Asks the kernel to send this process a signal when the thread that started it ends."""
    _prctl(_PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Makes this process the new parent of its descendants' orphans (PR_SET_CHILD_SUBREAPER)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Has the kernel (Linux) kill this process when its parent ends; ends now if the parent has ended already."""
    die_with(getppid())


def die_with(parent: int) -> None:
    """The same, for a process that knows its parent's pid from before it was forked."""
    set_death_signal(signal.SIGKILL)
    if getppid() != parent:
        kill(getpid(), signal.SIGKILL)


def parent_of(pid: int) -> int:
    """The pid of the process's parent; 0 when there is no such process."""
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/stat", "rb") as f:
        return int(f.read().rpartition(b")")[2].split()[1])
    return 0


def start_time(pid: int) -> int:
    """When the process started, in the kernel's ticks since the machine did; 0 when there is no such process.

    Tells a process from a later one with the same pid: the kernel gives pids again, within seconds on a busy machine.
    """
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/stat", "rb") as f:
        return int(f.read().rpartition(b")")[2].split()[19])
    return 0


def has_children() -> bool:
    """Whether this process has a child, dead or alive."""
    try:
        waitid(P_ALL, 0, WEXITED | WNOHANG | WNOWAIT)
    except ChildProcessError:
        return False
    return True


def processes() -> dict[int, ProcessInfo]:
    """Every process of the machine (or container), by pid."""
    found = {}
    for name in listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as f:
            # the command, in parentheses, may itself hold spaces and parentheses
            state, parent, _group, session = f.read().rpartition(b")")[2].split()[:4]
            found[int(name)] = ProcessInfo(int(name), int(parent), int(session), state == b"Z")
    return found


def anonymous_bytes(pids: Iterable[int]) -> int:
    """Memory of the processes that is not backed by a file, swap included; shared pages count once."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/smaps_rollup", "rb") as f:
            for line in f:
                if line.startswith((b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:")):
                    total += int(line.split()[1]) * 1024
    return total


def descendants(roots: Iterable[int], seen: dict[int, ProcessInfo]) -> set[int]:
    """Pids of all descendants of the roots and all members of the sessions they lead, without the roots."""
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
    """Kills the roots and their descendants; returns when only zombies are left, after some milliseconds.

    `spare`: pids that stay alive, with their descendants. `with_roots` False: the roots stay alive.
    """
    roots = {pid for pid in roots if pid > 1}  # to kill(2), 0 is our own group and -1 every process; 1 is the machine
    if with_roots:
        for pid in roots:  # not killed yet: they adopt the orphans of their descendants, which stay findable
            _kill(pid, signal.SIGSTOP)
    for turn in range(_ROUNDS):
        if turn:
            sleep(0.001 * turn)  # a kill takes a moment to take effect
        seen = processes()
        victims = _alive(descendants(roots, seen) - spare - descendants(spare, seen) - {getpid()}, seen)
        if not victims and with_roots:
            victims = _alive(roots, seen)
        if not victims:
            return
        for pid in victims:
            _kill(pid, signal.SIGSTOP)  # so that none forks while the others die
        for pid in victims:
            _kill(pid)
    for pid in roots if with_roots else ():
        _kill(pid)


def reap(pids: Iterable[int]) -> None:
    """Collects the exit codes of adopted processes, which would stay zombies otherwise."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            waitpid(pid, WNOHANG)


def _alive(pids: Iterable[int], seen: dict[int, ProcessInfo]) -> set[int]:
    return {pid for pid in pids if pid in seen and not seen[pid].zombie}


def _kill(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(OSError):
        kill(pid, number)


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(AttributeError):  # not Linux: there a child outlives a killed node until its attempt ends
        _libc.prctl(option, value)
