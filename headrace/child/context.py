"""How a node's children are started: forked by a lean forkserver, in an environment without secrets.

`context` is the multiprocessing context of the pool's slots. One thread that lives as long as the node starts all
children: the kernel binds the forkserver's death signal to the thread that started it. The module is in this package
because a child imports the class of its own process object and must import nothing of the node's.
"""

import functools
import multiprocessing
import os
import re
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, popen_forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

# Variables that tasks must not see: our settings with their passwords, and the usual Kafka and database settings.
SECRET = re.compile(r"^(HEADRACE|KAFKA|SASL|MYSQL|MARIADB|DATABASE|DB)(_|$)|BOOTSTRAP_SERVERS", re.IGNORECASE)

_start_lock = threading.Lock()


class LeanProcess(ForkServerProcess):
    """A child that does not import the node's main module and is started by the long-lived thread."""

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:
        return _in_starter_thread(lambda: popen_forkserver.Popen(process_obj))


class LeanContext(ForkServerContext):
    Process = LeanProcess


context = LeanContext()


def start_forkserver() -> None:
    """Starts it unless it runs. Call it before making threads and sockets, so that it inherits none of them."""
    _in_starter_thread(lambda: None)


def forkserver_pid() -> int:
    """The pid of the running forkserver, or of the last one; 0 before the first start."""
    return getattr(forkserver._forkserver, "_forkserver_pid", None) or 0


def _in_starter_thread(make: Callable[[], Any]) -> Any:
    def start() -> Any:
        with _start_lock, _no_main_module(), _scrubbed_environment():
            multiprocessing.set_forkserver_preload(["headrace.child.forkserver"])
            forkserver.ensure_running()
            return make()

    return _starter().submit(start).result()


@functools.cache
def _starter() -> "ThreadPoolExecutor":
    # Imported here: a child imports this module too, and what it holds in memory makes its forks slower.
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(1, thread_name_prefix="children-starter")


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
    """The forkserver is started in it, so /proc/<pid>/environ of the children holds no secrets either."""
    hidden = {name: value for name, value in os.environ.items() if SECRET.search(name)}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)
