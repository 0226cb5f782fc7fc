"""A task that says in which state it begins: everything of its process that another task might have changed.

All canaries of a pool must say the same. Imported in children alone.
"""

import builtins
import contextlib
import ctypes
import decimal
import gc
import importlib
import json
import locale
import logging
import multiprocessing
import os
import random
import re
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
import warnings
from pathlib import Path
from typing import Any

from headrace import Context, task
from tests.faults.fuzz.mess import kept

_LIMITS = sorted(n for n in dir(resource) if n.startswith("RLIMIT_"))
_FUNCTIONS = (json.loads, json.dumps, time.time, os.path.join, open, len, print, sys.excepthook, sys.unraisablehook)
_PR_GET_PDEATHSIG = 2


@task(timeout_s=60)
def canary(context: Context, word: str) -> dict[str, Any]:
    """Prints `word`, and nothing else may stand in its log."""
    found = {"same": _Normal(context).state(), "own": [random.random(), random.getrandbits(64), str(uuid.uuid4())]}
    print(word)
    return found


class _Normal:
    """The state with what must differ between attempts taken out."""

    def __init__(self, context: Context) -> None:
        self._scratch = str(context.scratch.resolve())

    def text(self, value: object) -> str:
        text = str(value).replace(self._scratch, "<scratch>")
        return re.sub(r"slot-\d+", "slot-N", re.sub(r"0x[0-9a-f]+|(?<=:\[)\d+|(?<=/)\d{2,}(?=/)", "…", text))

    def state(self) -> dict[str, Any]:
        return {
            **self._process(),
            **self._signals(),
            **self._interpreter(),
            **self._libraries(),
            "directory": os.path.realpath(".") == self._scratch,
            "scratch": os.listdir(self._scratch),
            "kept": len(kept),
        }

    def _process(self) -> dict[str, Any]:
        umask = os.umask(0)
        os.umask(umask)
        death = ctypes.c_int()
        ctypes.CDLL(None).prctl(_PR_GET_PDEATHSIG, ctypes.byref(death))
        return {
            "environment": {k: self.text(v) for k, v in sorted(os.environ.items())},
            "umask": umask,
            "limits": {n: resource.getrlimit(getattr(resource, n)) for n in _LIMITS},
            "descriptors": self._descriptors(),
            "children": _has_children(),
            "threads": [len(os.listdir("/proc/self/task")), sorted(t.name for t in threading.enumerate())],
            "priority": [os.getpriority(os.PRIO_PROCESS, 0), sorted(os.sched_getaffinity(0))],
            "users": [len({*os.getresuid()}), len({*os.getresgid()}), os.getgroups(), os.geteuid() == 0],
            "leads session": os.getsid(0) == os.getpid(),
            "death signal": death.value,
            "oom score": Path("/proc/self/oom_score_adj").read_text(),
        }

    def _descriptors(self) -> list[list[str]]:
        """What the standard ones lead to, and in any order what the others do: the numbers are of no interest."""
        found = {}
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                found[int(name)] = self.text(os.readlink(f"/proc/self/fd/{name}"))
        return [[found.pop(n, "closed") for n in range(3)], sorted(found.values())]

    def _signals(self) -> dict[str, Any]:
        timers = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
        return {
            "handlers": {int(n): self.text(signal.getsignal(n)) for n in signal.valid_signals()},
            "blocked": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))),
            "pending": sorted(map(int, signal.sigpending())),
            "timers": [signal.getitimer(t) for t in timers],
        }

    def _interpreter(self) -> dict[str, Any]:
        return {
            "path": [self.text(p) for p in sys.path],
            "modules": sorted(m for m in sys.modules if m != "colorsys"),
            "import": [importlib.import_module("colorsys").rgb_to_hsv(1, 0, 0)[0], len(sys.path_hooks)],
            "finders": [type(f).__name__ for f in sys.meta_path],
            "limits of Python": [sys.getrecursionlimit(), sys.getswitchinterval(), sys.get_int_max_str_digits()],
            "traced": [sys.gettrace(), sys.getprofile(), threading.getprofile()],
            "hooks": [sys.displayhook is sys.__displayhook__, threading.excepthook is threading.__excepthook__],
            "bytecode": sys.dont_write_bytecode,
            "arguments": [self.text(a) for a in sys.argv],
            "streams": [self._stream(s) for s in (sys.stdin, sys.stdout, sys.stderr)],
            "builtins": sorted(vars(builtins)),
            "functions": [f"{f.__module__}.{f.__qualname__}" for f in _FUNCTIONS],
            "now": abs(time.time() - Path("/proc/self/stat").stat().st_ctime) < 3600,
            "gc": [gc.isenabled(), gc.get_threshold(), len(gc.callbacks)],
        }

    def _stream(self, stream: Any) -> list[Any]:
        return [type(stream).__name__, stream.closed, stream.encoding, stream.errors, stream.fileno()]

    def _libraries(self) -> dict[str, Any]:
        root = logging.getLogger()
        return {
            "logging": [root.level, [type(h).__name__ for h in root.handlers], root.manager.disable],
            "warnings": [self.text(f) for f in warnings.filters],
            "locale": locale.setlocale(locale.LC_ALL),
            "time zone": [time.tzname, time.timezone],
            "decimal": str(decimal.getcontext()),
            "temporary": self.text(tempfile.gettempdir()),
            "timeout": socket.getdefaulttimeout(),
            "multiprocessing": [
                multiprocessing.get_start_method(allow_none=True),
                multiprocessing.current_process().name.rstrip("0123456789"),
                len(multiprocessing.active_children()),
            ],
        }


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
