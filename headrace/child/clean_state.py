"""What an attempt can change in its process and what can be seen again afterwards, in a tenth of a millisecond.

Called by `headrace.child.kept_runner`, before a function runs and right after it has returned. Equal observations prove
that the next attempt finds these things as this one did. What Python code keeps for itself (globals, caches, patched
functions, imported modules) cannot be seen so: an author who reuses a process vouches for that. Nothing here fails.
"""

import _thread
import atexit
import contextlib
import gc
import locale
import logging
import os
import resource
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Collection
from typing import Any

from headrace.child.process_tree import has_children

_LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
_SIGNALS = sorted(signal.valid_signals())
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_STREAMS = ("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__")
_HOOKS = ("excepthook", "unraisablehook", "displayhook", "breakpointhook")
_MAY_GROW = ("modules", "loggers")  # sets: a function may import what it needs when it first needs it

State = dict[str, Any]


def observe(set_anew: Collection[str] = ()) -> State:
    """The state of this process, by what a person calls it. `set_anew`: variables that every attempt gets anew."""
    return {what: _look(look) for what, look in _LOOKS.items()} | {
        "environment variables": {k: v for k, v in os.environ.items() if k not in set_anew}
    }


def differences(before: State, after: State) -> list[str]:
    """What has changed, as a person calls it; empty when nothing has."""
    return [w for w, value in before.items() if not (value <= after[w] if w in _MAY_GROW else value == after[w])]


def _look(look: Callable[[], Any]) -> Any:
    try:
        return look()
    except Exception as e:  # noqa: BLE001 - a task may have put anything in the place of what is looked at
        return f"{type(e).__name__}: {e}"


def _umask() -> int:
    now = os.umask(0o077)
    os.umask(now)
    return now


def _files() -> set[tuple[int, int, int]]:
    """Descriptors with what they lead to, but for 1 and 2, which every attempt gets anew."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        if name not in ("1", "2"):
            with contextlib.suppress(OSError):  # the listing's own
                of = os.fstat(int(name))
                found.add((int(name), of.st_dev, of.st_ino))
    return found


def _loggers() -> set[tuple[Any, ...]]:
    named = logging.root.manager.loggerDict
    return {(n, o.level, o.disabled, *map(id, o.handlers)) for n, o in named.items() if isinstance(o, logging.Logger)}


def _streams() -> list[tuple[int, bool]]:
    return [(id(stream), stream.closed) for stream in (getattr(sys, name) for name in _STREAMS)]


def _logging() -> tuple[Any, ...]:
    root = logging.root
    return root.level, root.disabled, root.manager.disable, list(map(id, root.handlers)), list(map(id, root.filters))


_LOOKS: dict[str, Callable[[], Any]] = {
    "threads": lambda: (_thread._count(), len(os.listdir("/proc/self/task"))),
    "child processes": has_children,
    "open files": _files,
    "standard streams": _streams,
    "signal handlers": lambda: [id(signal.getsignal(number)) for number in _SIGNALS],
    "blocked signals": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()),
    "pending signals": signal.sigpending,
    "timers": lambda: [signal.getitimer(timer) for timer in _TIMERS],
    "resource limits": lambda: [resource.getrlimit(limit) for limit in _LIMITS],
    "umask": _umask,
    "priority": lambda: (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0)),
    "user": lambda: (os.getresuid(), os.getresgid(), os.getgroups()),
    "session": lambda: (os.getsid(0), os.getpgid(0)),
    "sys.path": lambda: (list(sys.path), list(sys.argv), list(map(id, sys.meta_path)), list(map(id, sys.path_hooks))),
    "recursion limit": lambda: (sys.getrecursionlimit(), sys.getswitchinterval(), threading.stack_size()),
    "hooks": lambda: [id(getattr(sys, name)) for name in _HOOKS],
    "tracing": lambda: [id(get()) for get in (sys.gettrace, sys.getprofile, threading.gettrace, threading.getprofile)],
    "garbage collector": lambda: (gc.isenabled(), gc.get_threshold(), gc.get_debug(), len(gc.callbacks)),
    "warnings": lambda: list(map(id, warnings.filters)),
    "logging": _logging,
    "loggers": _loggers,
    "modules": lambda: set(sys.modules),
    "locale": lambda: locale.setlocale(locale.LC_ALL, None),
    "time zone": lambda: (time.tzname, time.timezone),
    "exit handlers": lambda: atexit._ncallbacks(),
    "digits of an int": lambda: sys.get_int_max_str_digits(),
}
