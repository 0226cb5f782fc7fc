"""Attempts inside a pool's child: the child loads the kinds once, then runs one attempt after another.

Called by `headrace.child.main` in a process forked by the forkserver, which has imported only `headrace`. Everything
that goes back to the node is a frame (`headrace.child.protocol`) of numbers, text and bytes: the node never unpickles
what a task made. Results above `INLINE_BYTES` stay in a file that the node has named, so memory does not grow with
them. What an attempt prints goes into a pipe that the node reads; its progress goes to the node's datagram socket
(`headrace.child.notifications`). A failing task never raises here: `run_attempt` returns how it ended.
"""

import contextlib
import faulthandler
import fcntl
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from headrace.child.encoding import Unencodable, encode_result
from headrace.child.errors import MAX_BYTES, describe_error
from headrace.child.notifications import Born, Reported, send_notification
from headrace.child.process_tree import adopt_orphans, descendants, kill_trees, processes, reap, set_death_signal
from headrace.child.protocol import INLINE_BYTES, Ended, Request
from headrace.child.user import ChildUser, drop_privileges
from headrace.contract.cluster import KindInfo
from headrace.contract.exact_json import encode_json, parse_json
from headrace.contract.printable import printable
from headrace.errors import Invalid, UsageError
from headrace.installation import path_for_kinds
from headrace.kinds import Context, Kind, load_kinds

HOME = "home"  # in a slot's folder: a link to the scratch of its running attempt
_MIB = 1024 * 1024
_OOM_SCORE = "500"  # when memory runs out the kernel kills tasks before the node and other processes


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


_setup: Setup | None = None
_kinds: dict[str, Kind] | None = None


def initialize(setup: Setup) -> None:
    """Prepares the process: a session of its own, no privileges, death with its parent, the kinds loaded.

    Kinds that cannot be loaded do not fail here, but in the attempts that need them.
    """
    global _setup
    _setup = setup
    # Before setsid: the node takes a process in an unknown session for an orphan.
    send_notification(setup.socket, Born(setup.slot, os.getppid(), setup.token))
    os.setsid()  # a kill by session includes what a task has started
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the whole group: the node decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if setup.lock_path:
        fcntl.flock(os.open(setup.lock_path, os.O_RDONLY | os.O_CREAT, 0o600), fcntl.LOCK_SH)
    _confine(setup)
    die_with_parent()  # after _confine: a change of user clears the death signal
    adopt_orphans()
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)
    faulthandler.enable(file=2)  # the traceback of a crash in native code goes to the attempt's log
    sys.path[:] = path_for_kinds(setup.import_path, sys.path)
    with contextlib.suppress(BaseException):  # a module may call sys.exit
        _load_once()


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


def die_with_parent() -> None:
    """Has the kernel (Linux) kill this process when its parent ends; ends now if the parent has ended already."""
    parent = os.getppid()
    set_death_signal(signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def describe_kinds() -> bytes:
    """JSON: a list of each kind's KindInfo, or `{"error": …}` for the person who started the node."""
    try:
        return encode_json([kind.info().to_json() for kind in _load_once().values()])
    except UsageError as e:
        return orjson.dumps({"error": printable(str(e))})
    except BaseException as e:  # noqa: BLE001 - a module can raise anything while it is imported
        tasks = _setup.tasks if _setup else ""
        return orjson.dumps({"error": f"HEADRACE_TASKS: {tasks} cannot be imported: {describe_error(e)}"})


def parse_kinds(described: bytes) -> list[KindInfo]:
    """In the node: the kinds that `describe_kinds` returned; UsageError when the child could not load them."""
    found = parse_json(described)
    if isinstance(found, dict):
        raise UsageError(found["error"])
    return [KindInfo.from_json(kind) for kind in found]


def run_attempt(request: Request) -> Ended:
    """Runs one attempt, from payload to encoded result. Never raises what the task raises."""
    before = descendants([os.getpid()], processes()) if _has_children() else set()
    try:
        _use_scratch(request.scratch)
        limit_mb = request.memory_mb or (_setup.memory_mb if _setup else 0) or None
        with _redirected_output(request.output), _limited_memory(limit_mb):
            return _attempt(request)
    except BaseException as e:  # noqa: BLE001 - an error whose text raises, a task that closed our descriptors
        return Ended(False, error=f"{type(e).__name__}: the error that ended the attempt could not be formatted")
    finally:
        if _has_children():
            kill_trees([os.getpid()], spare=frozenset(before), with_roots=False)
            _reap_zombies(before)


def _use_scratch(scratch: str) -> None:
    """Makes the scratch directory the place of temporary files and, for a user of its own, the home directory.

    The variables name the slot's link, which always leads to the attempt's scratch: glibc keeps every value that the
    environment has ever had, so a new path for each attempt would make this process grow for ever.
    """
    home = str(Path(scratch).with_name(HOME))
    names = ["TMPDIR"] if _setup is None or _setup.user is None else ["TMPDIR", "HOME"]
    for name in names:
        if os.environ.get(name) != home:
            os.environ[name] = home
    tempfile.tempdir = None  # the attempt before may have set it


def _attempt(request: Request) -> Ended:
    try:
        kind = _load_once()[request.name]
        context = Context(request.id, request.attempt, Path(request.scratch), _reporter(request))
        return _store_result(kind, kind.call(request.payload, context), request)
    except Invalid as e:
        return Ended(False, invalid=True, error=_exact_str(printable(e.detail, MAX_BYTES)))
    except Unencodable as e:
        return Ended(False, permanent=True, error=printable(str(e), MAX_BYTES))
    except MemoryError as e:
        return Ended(False, out_of_memory=True, error=describe_error(e))
    except BaseException as e:  # noqa: BLE001 - a task's SystemExit or KeyboardInterrupt ends its attempt, not the child
        return Ended(False, error=describe_error(e))


def _store_result(kind: Kind, value: Any, request: Request) -> Ended:
    if isinstance(value, Path):
        path = value.resolve(strict=True)
        if not path.is_relative_to(Path(request.scratch).resolve()) or not path.is_file():
            raise ValueError(f"the returned path {value} is not a file in the attempt's scratch directory")
        shutil.move(path, request.result_file)
        suffix = kind.suffix or (path.suffix if len(path.suffix) > 1 else ".bin")
        return Ended(True, None, kind.content_type or "application/octet-stream", _exact_str(suffix))
    raw, content_type, suffix = encode_result(value, kind)
    if len(raw) <= INLINE_BYTES:
        return Ended(True, raw, content_type, suffix)
    Path(request.result_file).write_bytes(raw)
    return Ended(True, None, content_type, suffix)


def _load_once() -> dict[str, Kind]:
    global _kinds
    if _kinds is None:
        _kinds = load_kinds(_setup.tasks if _setup else "")
    return _kinds


def _reporter(request: Request) -> Callable[[float, str], None]:
    def report(fraction: float, message: str) -> None:
        if _setup is not None:
            send_notification(_setup.socket, Reported(request.id, request.attempt, fraction, message[:1000]))

    return report


@contextlib.contextmanager
def _redirected_output(path: str) -> Iterator[None]:
    """Redirects file descriptors 1 and 2 to the path for one attempt."""
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    _redirect_to(out)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # the task has closed it
                stream.flush()
        with contextlib.suppress(OSError):
            _redirect_to(os.open(os.devnull, os.O_WRONLY))


def _redirect_to(descriptor: int) -> None:
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if descriptor > 2:
        os.close(descriptor)


@contextlib.contextmanager
def _limited_memory(memory_mb: int | None) -> Iterator[None]:
    """Limits what the attempt may allocate beyond what this process has now; above it allocations raise MemoryError."""
    if memory_mb is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    pages = int(Path("/proc/self/statm").read_text().split()[5])  # data and stack, which RLIMIT_DATA counts
    resource.setrlimit(resource.RLIMIT_DATA, (pages * resource.getpagesize() + memory_mb * _MIB, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _reap_zombies(spare: set[int]) -> None:
    """Collects the exit codes of processes that an attempt left behind."""
    me = os.getpid()
    reap(p.pid for p in processes().values() if p.zombie and p.parent == me and p.pid not in spare)


def _exact_str(text: str) -> str:
    """The text as an exact `str`. TypeError for anything else, which the node would refuse as a broken frame."""
    return "".join((text, " "))[:-1]
