"""What a task may break in its own process, one move a function: its own attempt may fail by it, and no other."""

import builtins
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable

Move = Callable[[], None]


def patch_modules() -> None:
    json.loads = json.dumps = lambda *_, **__: "patched"
    time.time = lambda: 0.0
    os.path.join = lambda *_: "patched"


def lose_modules() -> None:
    sys.modules.clear()


def break_builtins() -> None:
    builtins.len = builtins.open = lambda *_, **__: 1 / 0


def break_imports() -> None:
    builtins.__import__ = lambda *_, **__: 1 / 0
    sys.meta_path.clear()
    sys.path_hooks.clear()


def allow_few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))


def close_descriptors() -> None:
    os.closerange(3, 512)


def stop_gently() -> None:
    threading.Timer(0.0, os.kill, [os.getpid(), signal.SIGTERM]).start()


def exit_in_a_thread() -> None:
    threading.Timer(0.0, os._exit, [5]).start()


def raise_in_a_signal_handler() -> None:
    def raises(*_: object) -> None:
        raise RuntimeError("from a signal handler")

    signal.signal(signal.SIGALRM, raises)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)


def forbid_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (1, 1))


HARM: dict[str, Move] = {
    name: move
    for name, move in globals().copy().items()
    if getattr(move, "__module__", "") == __name__ and not name.startswith("_")
}
