"""Whether a process may be forked: the threads that importing the kinds has left in it.

Called by `headrace.child.zygote`. A forked process has one thread only, so a lock that another one held stays locked
for ever, and a library that counts on its own threads waits for ever. Nothing here fails.
"""

import _thread
import contextlib
import os
import threading
import time
import warnings
from pathlib import Path

_TASKS = Path("/proc/self/task")
_END_S = 0.2  # a joined thread stays in /proc a moment longer


def threads_that_forbid_forking() -> list[str]:
    """Names of this process's other threads; empty when it can be forked safely.

    Libraries that are made for forking, such as OpenBLAS below numpy, end their threads when a process forks and start
    new ones when they need them. So this forks once, for nothing, and counts what is left.
    """
    if _thread._count() > 0:
        names = sorted(t.name for t in threading.enumerate() if t is not threading.main_thread())
        return names or ["a thread of the module _thread"]
    if not _native_threads():
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of exactly what is tried here
        pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    deadline = time.monotonic() + _END_S
    while (left := _native_threads()) and time.monotonic() < deadline:
        time.sleep(0.005)
    return left


def _native_threads() -> list[str]:
    """Names of the kernel's tasks of this process, without the main one; empty where /proc does not tell."""
    names = []
    with contextlib.suppress(OSError):
        for task in _TASKS.iterdir():
            if task.name != str(os.getpid()):
                with contextlib.suppress(OSError):
                    names.append((task / "comm").read_text().strip())
    return sorted(names)
