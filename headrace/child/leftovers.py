"""Ends what an attempt has left behind: every process below the child, orphans included, but not the child itself.

Called by `headrace.child.runner` when the attempt's runner has ended. The child adopts orphans, so having no child left
means that nothing is left; most attempts cost this one system call. Nothing here fails.
"""

import contextlib
from os import WNOHANG, getpid, waitpid  # bound here for the reason that process_tree gives
from time import monotonic, sleep

from headrace.child.process_tree import descendants, kill_trees, processes

# For resource trackers to remove shared memory and semaphores. They take milliseconds, but one that has just been
# started must load Python first, and what it does not remove stays on the machine for ever.
_TRACKER_S = 10.0
_EXEC_S = 1.0  # for a process to become the program that it executes; it takes microseconds of CPU


def kill_leftovers(spare: frozenset[int]) -> None:
    """Returns when they are dead. `spare`: pids that stay alive, with their descendants."""
    if not _reap():
        return
    me = getpid()
    trackers = frozenset(pid for pid in _left(spare) if _is_tracker(pid))
    if trackers:
        kill_trees([me], spare=spare | trackers, with_roots=False)
        _wait_until_gone(trackers)
    kill_trees([me], spare=spare, with_roots=False)
    _reap()


def _left(spare: frozenset[int]) -> set[int]:
    seen = processes()
    return descendants([getpid()], seen) - spare - descendants(spare, seen)


def _is_tracker(pid: int) -> bool:
    """A resource tracker of multiprocessing or of loky.

    It outlives the processes that use it, and then removes from the machine what they have left: killed, it could not.
    """
    deadline = monotonic() + _EXEC_S
    with contextlib.suppress(OSError):
        # Of a tracker that an attempt has started in its last moment, the command is empty for an instant: its parent
        # goes on as soon as the new program has its memory, before the kernel has written the command into it.
        while not (command := _command(pid)) and _is_alive(pid) and monotonic() < deadline:
            sleep(0.001)
        return b"resource_tracker" in command
    return False


def _command(pid: int) -> bytes:
    with open(f"/proc/{pid}/cmdline", "rb") as f:
        return f.read()


def _is_alive(pid: int) -> bool:
    found = processes().get(pid)
    return found is not None and not found.zombie


def _wait_until_gone(pids: frozenset[int]) -> None:
    deadline = monotonic() + _TRACKER_S
    while monotonic() < deadline:
        _reap()
        seen = processes()
        if not any(pid in seen and not seen[pid].zombie for pid in pids):
            return
        sleep(0.002)


def _reap() -> bool:
    """Collects the exit codes of dead children; returns whether there are others."""
    with contextlib.suppress(ChildProcessError):
        while waitpid(-1, WNOHANG)[0]:
            pass
        return True
    return False
