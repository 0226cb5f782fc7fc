"""How a node's children come to be: forked by a lean forkserver, in an environment without secrets.

`context` is the multiprocessing context of the pool's slots. All children are asked for from one thread that lives as
long as the node: the kernel binds the forkserver's death signal to the thread that started it. In this package, since
children import the class of what they run as, and must import nothing of the node's.
"""

import multiprocessing
import os
import re
import sys
import threading
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver, popen_forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.process import BaseProcess
from typing import Any

# What tasks must not see: our settings with their passwords, and the usual names of Kafka and database settings.
SECRET = re.compile(r"^(HEADRACE|KAFKA|SASL|MYSQL|MARIADB|DATABASE|DB)(_|$)|BOOTSTRAP_SERVERS", re.IGNORECASE)

_one_at_a_time = threading.Lock()
_starter = ThreadPoolExecutor(1, thread_name_prefix="children-starter")


class LeanProcess(ForkServerProcess):
    """A child that does not import the node's main module, and is asked for from the long-lived thread."""

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:
        return _in_starter(lambda: popen_forkserver.Popen(process_obj))


class LeanContext(ForkServerContext):
    Process = LeanProcess


context = LeanContext()


def start_forkserver() -> None:
    """Starts it if it does not run. Call before threads and sockets are made: none of them is passed on."""
    _in_starter(lambda: None)


def forkserver_pid() -> int:
    """Of the one that runs, or ran last; 0 before the first."""
    return getattr(forkserver._forkserver, "_forkserver_pid", None) or 0


def _in_starter(make: Callable[[], Any]) -> Any:
    def start() -> Any:
        with _one_at_a_time, _no_main_module(), _scrubbed_environment():
            multiprocessing.set_forkserver_preload(["headrace.child.forkserver"])
            forkserver.ensure_running()
            return make()

    return _starter.submit(start).result()


@contextmanager
def _no_main_module() -> Iterator[None]:
    """multiprocessing would import `__main__` in each child: the command line, or a test runner."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _scrubbed_environment() -> Iterator[None]:
    """The forkserver is started in it, so that /proc/<pid>/environ of its children holds no secrets either."""
    hidden = {name: value for name, value in os.environ.items() if SECRET.search(name)}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)
