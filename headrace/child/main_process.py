"""Makes multiprocessing in a child look as it does in the main process of a program that has just started.

A pool's child is itself a process of multiprocessing: its current process, its start method, its resource tracker and
its forkserver are the node's. A kind that uses multiprocessing, concurrent.futures or joblib would meet them. Called by
`headrace.child.zygote` before the kinds are imported, and after each fork. Cannot fail.
"""

import contextlib
import itertools
import multiprocessing.context
import multiprocessing.forkserver
import multiprocessing.process
import multiprocessing.resource_tracker
import multiprocessing.util
import os
from multiprocessing.process import BaseProcess
from typing import Any

_process: Any = multiprocessing.process
_main: BaseProcess = (
    multiprocessing.process.current_process()
)  # this is imported in the forkserver, by its main process

_short_name = -1  # the descriptor of a scratch directory whose path is long

_SOCKET_PATH_CHARACTERS = 107  # that a Unix socket's address has room for
_SOCKET_NAME_CHARACTERS = len("/pymp-12345678/listener-12345678")


def become_main_process() -> None:
    """Forgets all that multiprocessing knows of the process that started this one."""
    main: Any = _main
    main._name, main._identity, main._parent_pid, main._popen, main._closed = "MainProcess", (), None, None, False
    main._config = {"authkey": _process.AuthenticationString(os.urandom(32)), "semprefix": "/mp"}
    _process._current_process, _process._parent_process = main, None
    _process._process_counter = itertools.count(1)
    multiprocessing.util._finalizer_registry.clear()  # type: ignore[attr-defined]
    multiprocessing.context._default_context._actual_context = None  # type: ignore[attr-defined]
    forget_helpers()


def has_helpers() -> bool:
    """Whether this process has started child processes, a resource tracker or a forkserver through multiprocessing."""
    tracker: Any = multiprocessing.resource_tracker._resource_tracker
    forkserver: Any = multiprocessing.forkserver._forkserver
    return bool(_process._children) or tracker._fd is not None or forkserver._forkserver_alive_fd is not None


def forget_helpers() -> None:
    """Forgets them: they belong to the process that this one was forked from."""
    tracker: Any = multiprocessing.resource_tracker._resource_tracker
    forkserver: Any = multiprocessing.forkserver._forkserver
    _process._children = set()
    tracker.__init__()
    forkserver.__init__()


def shorten_socket_paths(folder: str) -> None:
    """Has multiprocessing make its sockets below a short name of the folder, where their paths would be too long.

    The name leads through this process's descriptor, so it ends with this process, or with `forget_short_name`.
    """
    global _short_name
    if len(folder) + _SOCKET_NAME_CHARACTERS > _SOCKET_PATH_CHARACTERS and os.path.isdir("/proc/self/fd"):
        _short_name = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        config: Any = _main._config  # type: ignore[attr-defined]
        config["tempdir"] = f"/proc/{os.getpid()}/fd/{_short_name}"


def forget_short_name() -> None:
    """Closes that descriptor, in a process that goes on after its attempt. It may be closed already."""
    global _short_name
    config: Any = _main._config  # type: ignore[attr-defined]
    config.pop("tempdir", None)
    if _short_name >= 0:
        with contextlib.suppress(OSError):
            os.close(_short_name)
        _short_name = -1
