"""A slot's child as a zygote: it imports the kinds once, and then forks a runner for each attempt.

Called by `headrace.child.main` in a process forked by the forkserver, which has imported only `headrace`. The zygote
itself never runs a task: whatever an attempt does to its process ends with that process, and the next attempt begins in
the state that importing the kinds has left. Kinds that cannot be loaded do not fail here, but in the attempts that need
them. An error while the process gives up its rights ends it.
"""

import contextlib
import ctypes
import faulthandler
import fcntl
import gc
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from os import getpid
from pathlib import Path
from typing import Any

import orjson

from headrace.child.errors import describe_error
from headrace.child.main_process import become_main_process, forget_helpers, has_helpers
from headrace.child.notifications import Born, send_notification
from headrace.child.process_tree import (
    adopt_orphans,
    anonymous_bytes,
    descendants,
    die_with_parent,
    has_children,
    processes,
)
from headrace.child.random_numbers import needs_reseed, reseed
from headrace.child.threads import threads_that_forbid_forking
from headrace.child.user import ChildUser, drop_privileges
from headrace.contract.cluster import KindInfo
from headrace.contract.exact_json import encode_json, parse_json
from headrace.contract.printable import printable
from headrace.errors import UsageError
from headrace.installation import path_for_kinds
from headrace.kind_files import loading_notes
from headrace.kinds import Kind, load_kinds

_MIB = 1024 * 1024
_OOM_SCORE = "500"  # when memory runs out the kernel kills tasks before the node and other processes
_libc = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class Setup:
    """What the node tells a child once, when it starts it."""

    tasks: str  # HEADRACE_TASKS
    import_path: str  # the directory of the user's modules, first on sys.path
    slot: int  # the slot it serves
    socket: str  # the node's datagram socket
    lock_path: str = ""  # held, shared, as long as this child lives: a takeover waits for it
    user: ChildUser | None = None  # the user that the child becomes; None = it stays the node's user
    memory_mb: int = 0  # MiB for kinds without a limit of their own; 0 = no limit
    scratch_mb: int = 0  # MiB of the largest file that an attempt may write; 0 = no limit
    token: str = ""  # proves its Born notification, once


@dataclass(slots=True)
class Zygote:
    """This process, once it is ready to fork runners."""

    setup: Setup
    threads: list[str] = field(default_factory=list)  # that importing the kinds has left; with any it must not fork
    helpers: frozenset[int] = frozenset()  # pids of processes that importing the kinds has left
    on_child_end: Any = signal.SIG_DFL  # what the kinds' modules have set for SIGCHLD, which is the runners'
    after_fork: tuple[Callable[[], None], ...] = ()  # what each runner must do before it is as good as new
    memory: int = 0  # bytes; 0 where no kind limits its memory


_kinds: dict[str, Kind] | None = None
_setup: Setup | None = None


def become_zygote(setup: Setup, link: int) -> Zygote:
    """Prepares the process: a session of its own, no privileges, death with its parent, the kinds loaded.

    `link` is the descriptor of the link to the node: of the inherited ones only this one stays open.
    """
    global _setup
    _setup = setup
    # Before setsid: the node takes a process in an unknown session for an orphan.
    send_notification(setup.socket, Born(setup.slot, os.getppid(), setup.token))
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the whole group: the node decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _close_inherited(spare=link)
    if setup.lock_path:
        fcntl.flock(os.open(setup.lock_path, os.O_RDONLY | os.O_CREAT, 0o600), fcntl.LOCK_SH)
    _confine(setup)
    die_with_parent()  # after _confine: a change of user clears the death signal
    adopt_orphans()
    _open_streams()
    become_main_process()
    faulthandler.enable(file=2)  # the traceback of a crash in native code goes to the attempt's log
    sys.path[:] = path_for_kinds(setup.import_path, [os.path.abspath(p) for p in sys.path if p])
    with contextlib.suppress(BaseException):  # a module may call sys.exit
        load_kinds_once()
    return _settle(setup)


def load_kinds_once() -> dict[str, Kind]:
    """The kinds by name. Tries to load them if that has failed before, and raises what their modules raise."""
    global _kinds
    if _kinds is None:
        _kinds = load_kinds(_setup.tasks if _setup else "")
    return _kinds


def describe_kinds(zygote: Zygote) -> bytes:
    """JSON: `kinds`, each as a KindInfo, and `notes`, what the person who runs the node should know; or an `error`."""
    try:
        kinds = [kind.info().to_json() for kind in load_kinds_once().values()]
    except UsageError as e:
        return orjson.dumps({"error": printable(str(e))})
    except BaseException as e:  # noqa: BLE001 - a module can raise anything while it is imported
        return orjson.dumps({"error": f"HEADRACE_TASKS: {zygote.setup.tasks} cannot be imported: {describe_error(e)}"})
    notes = list(loading_notes())
    if zygote.threads:
        names = ", ".join(zygote.threads)
        notes.append(
            f"HEADRACE_TASKS: importing {zygote.setup.tasks} leaves threads running ({names}), and a process with "
            "threads cannot be forked safely: each attempt gets a process that imports the kinds anew, which costs "
            "their import each time. Start threads inside the function instead"
        )
    return encode_json({"kinds": kinds, "notes": notes})


def parse_kinds(described: bytes) -> tuple[list[KindInfo], list[str]]:
    """In the node: (kinds, notes for the log) of `describe_kinds`; UsageError when the child could not load them."""
    found = parse_json(described)
    if "error" in found:
        raise UsageError(found["error"])
    return [KindInfo.from_json(kind) for kind in found["kinds"]], found["notes"]


def flush_streams() -> None:
    """Writes out what Python and C libraries still hold for stdout and stderr. Never fails."""
    for stream in {id(s): s for s in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)}.values():
        with contextlib.suppress(BaseException):  # a task has closed it, or put anything in its place
            stream.flush()  # type: ignore[union-attr]
    _libc.fflush(None)


def _close_inherited(spare: int) -> None:
    """Closes what multiprocessing has passed on: pipes of the forkserver and of the node's resource tracker."""
    for name in os.listdir("/dev/fd"):
        if int(name) > 2 and int(name) != spare:
            with contextlib.suppress(OSError):
                os.close(int(name))


def _confine(setup: Setup) -> None:
    """Sets limits and drops privileges. An error ends the child: no task may run with more rights than intended."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash must not fill the disk
    if setup.scratch_mb:
        max_bytes = setup.scratch_mb * _MIB
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        max_bytes = max_bytes if hard == resource.RLIM_INFINITY else min(max_bytes, hard)
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))
    with contextlib.suppress(OSError):  # not Linux
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    if setup.user is not None:
        drop_privileges(setup.user)


def _open_streams() -> None:
    """Standard streams as a program has them that was started with /dev/null; a runner redirects 1 and 2.

    Made here once: no task has a hand on them, so every runner inherits them as new. A character that cannot be encoded
    is printed as an escape: what a task prints must not fail it.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    if null > 2:
        os.close(null)
    sys.stdin = sys.__stdin__ = _text_stream(0, "r")  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _text_stream(1, "w")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _text_stream(2, "w")  # type: ignore[misc]
    sys.stderr.reconfigure(line_buffering=True)


def _text_stream(number: int, mode: str) -> Any:
    return open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False)


def _settle(setup: Setup) -> Zygote:
    """Leaves nothing that a runner would inherit half done: buffered text, garbage, a handler that takes its end."""
    zygote = Zygote(setup)
    flush_streams()
    on_child_end = signal.getsignal(signal.SIGCHLD)
    if on_child_end not in (None, signal.SIG_DFL):
        zygote.on_child_end = on_child_end
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else the kinds' handler could collect the runner's exit code
    zygote.threads = threads_that_forbid_forking()
    if has_children():
        zygote.helpers = frozenset(descendants([getpid()], processes()))
    if has_helpers():
        zygote.after_fork += (forget_helpers,)
    if needs_reseed():
        zygote.after_fork += (reseed,)
    if setup.memory_mb or any(kind.memory_mb for kind in (_kinds or {}).values()):
        zygote.memory = anonymous_bytes([getpid()])
    gc.collect()
    if not zygote.threads:
        gc.freeze()  # collections in a runner leave these objects alone, and with them the memory that it shares
    return zygote
