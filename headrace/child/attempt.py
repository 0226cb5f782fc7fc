"""What runs inside a pool's child: loads the kinds once, then one attempt after another.

Forked by the forkserver, which has imported only `headrace`. Everything that crosses back to the node is a frame
(`headrace.child.protocol`) of plain numbers, text and bytes: the node never unpickles what a task made. Results above
`INLINE_BYTES` stay in a file that the node has named, so memory does not grow with them. What an attempt prints goes
into a pipe that the node reads; its progress goes to the node's datagram socket (`headrace.child.notifications`).
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
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from headrace.child.notifications import Born, Reported, tell
from headrace.child.process_tree import adopt_orphans, below, kill_trees, processes, reap, set_death_signal
from headrace.child.protocol import INLINE_BYTES, Ended, Request
from headrace.child.user import ChildUser, become
from headrace.contract.cluster import KindInfo
from headrace.errors import Invalid, UsageError
from headrace.kinds import Context, Kind, load_kinds

TRACEBACK_LINES = 20
HOME = "home"  # in a slot's folder: a link to the scratch of the attempt at work there
_MIB = 1024 * 1024
_OOM_SCORE = "500"  # the kernel, short of memory, takes a task's process before the node's or anybody else's


@dataclass(frozen=True, slots=True)
class Setup:
    """What a child is told once, at its birth."""

    tasks: str  # HEADRACE_TASKS
    import_path: str  # first on sys.path: where the user's modules are
    slot: int  # the slot it serves
    socket: str  # the node's datagram socket
    lock_path: str = ""  # of the boot: held as long as this child lives, so that no takeover comes before its end
    user: ChildUser | None = None  # whom the child becomes; None = it stays the node's own
    memory_mb: int = 0  # the limit of kinds that name none; 0 = none
    scratch_mb: int = 0  # the largest file that an attempt may write; 0 = any
    token: str = ""  # with which it tells of its birth, once


_setup: Setup | None = None
_kinds: dict[str, Kind] | None = None


def initialize(setup: Setup) -> None:
    """A child's beginning: a session of its own, the parent's end its own, the user's path first, the kinds loaded.

    Kinds that cannot be loaded are no failure here: the attempts that need them will say so.
    """
    global _setup
    _setup = setup
    # The birth is told before setsid: the node tells strays by their sessions.
    tell(setup.socket, Born(setup.slot, os.getppid(), setup.token))
    os.setsid()  # a kill by session takes what a task has started too
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal goes to the whole group: the node decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if setup.lock_path:
        fcntl.flock(os.open(setup.lock_path, os.O_RDONLY | os.O_CREAT, 0o600), fcntl.LOCK_SH)
    _confine(setup)
    die_with_parent()  # after it: the kernel forgets a death signal with a change of user
    adopt_orphans()
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    os.close(nothing)
    faulthandler.enable(file=2)  # what a crash in native code was at goes to the attempt's log
    # A user's package named `agents` or `gateway` must be found before ours: `headrace` is imported by now.
    own = str(Path(__file__).resolve().parents[2])
    sys.path[:] = [setup.import_path, *(p for p in sys.path if p and os.path.realpath(p) != own)]
    with contextlib.suppress(BaseException):  # a module may well call sys.exit
        _loaded()


def _confine(setup: Setup) -> None:
    """Gives up what no task needs. What fails here ends the child: no task may run with more than it should have."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash must not fill the disk
    if setup.scratch_mb:
        largest = setup.scratch_mb * _MIB
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        largest = largest if hard == resource.RLIM_INFINITY else min(largest, hard)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    with contextlib.suppress(OSError):  # not Linux
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    if setup.user is not None:
        become(setup.user)


def die_with_parent() -> None:
    """Asks the kernel (Linux) to kill this process when its parent ends, and ends now if that has happened already."""
    parent = os.getppid()
    set_death_signal(signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def describe_kinds() -> bytes:
    """What the node announces: a JSON list of each kind's KindInfo, or `{"error": …}` for the person who started it."""
    try:
        return orjson.dumps([kind.info().to_json() for kind in _loaded().values()])
    except UsageError as e:
        return orjson.dumps({"error": str(e)})
    except BaseException as e:  # noqa: BLE001 - whatever a module does while it is imported
        tasks = _setup.tasks if _setup else ""
        return orjson.dumps({"error": f"HEADRACE_TASKS: {tasks} cannot be imported: {_last_lines(e)}"})


def kinds_of(described: bytes) -> list[KindInfo]:
    """What `describe_kinds` gave; UsageError with its words when the kinds cannot be loaded."""
    found = orjson.loads(described)
    if isinstance(found, dict):
        raise UsageError(found["error"])
    return [KindInfo.from_json(kind) for kind in found]


def run_attempt(request: Request) -> Ended:
    """One attempt, from payload to encoded result. Raises nothing that the task could have raised."""
    before = below([os.getpid()], processes()) if _has_children() else set()
    try:
        _at_home_in(request.scratch)
        limit_mb = request.memory_mb or (_setup.memory_mb if _setup else 0) or None
        with _printing_to(request.output), _limited_memory(limit_mb):
            return _attempt(request)
    except BaseException as e:  # noqa: BLE001 - an exception whose own text raises, a task that closed our descriptors
        return Ended(False, error=f"{type(e).__name__}: the attempt's end could not be described")
    finally:
        if _has_children():
            kill_trees([os.getpid()], spare=frozenset(before), with_roots=False)
            _reap(before)


def _at_home_in(scratch: str) -> None:
    """Temporary files of an attempt go into its scratch, counted and removed with it; another user is at home there.

    By way of the slot's link, which always leads to the attempt's scratch: glibc keeps every value that the environment
    has ever had, so a path of its own for each attempt would make this process grow for ever.
    """
    home = str(Path(scratch).with_name(HOME))
    names = ["TMPDIR"] if _setup is None or _setup.user is None else ["TMPDIR", "HOME"]
    for name in names:
        if os.environ.get(name) != home:
            os.environ[name] = home
    tempfile.tempdir = None  # the last attempt may have set it


def encode_result(value: Any, kind: Kind) -> tuple[bytes, str, str]:
    """(bytes, content type, suffix): bytes as they are, text as UTF-8, anything else as JSON."""
    if isinstance(value, bytes | bytearray | memoryview):
        raw, content_type, suffix = bytes(value), "application/octet-stream", ".bin"
    elif isinstance(value, str):
        raw, content_type, suffix = value.encode(), "text/plain; charset=utf-8", ".txt"
    else:
        raw = orjson.dumps(value, default=_jsonable, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY)
        content_type, suffix = "application/json", ".json"
    return raw, kind.content_type or content_type, kind.suffix or suffix


def _attempt(request: Request) -> Ended:
    try:
        kind = _loaded()[request.name]
        context = Context(request.id, request.attempt, Path(request.scratch), _reporter(request))
        return _store(kind, kind.call(request.payload, context), request)
    except Invalid as e:
        return Ended(False, invalid=True, error=_plain(e.detail))
    except MemoryError as e:
        return Ended(False, out_of_memory=True, error=_last_lines(e))
    except BaseException as e:  # noqa: BLE001 - SystemExit and KeyboardInterrupt of a task end its attempt, not the child
        return Ended(False, error=_last_lines(e))


def _jsonable(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is no JSON: return bytes, text, or what JSON can hold")


def _store(kind: Kind, value: Any, request: Request) -> Ended:
    if isinstance(value, Path):
        path = value.resolve(strict=True)
        if not path.is_relative_to(Path(request.scratch).resolve()) or not path.is_file():
            raise ValueError(f"the returned path {value} is no file inside the attempt's scratch directory")
        shutil.move(path, request.result_file)
        suffix = kind.suffix or (path.suffix if len(path.suffix) > 1 else ".bin")
        return Ended(True, None, kind.content_type or "application/octet-stream", _plain(suffix))
    raw, content_type, suffix = encode_result(value, kind)
    if len(raw) <= INLINE_BYTES:
        return Ended(True, raw, content_type, suffix)
    Path(request.result_file).write_bytes(raw)
    return Ended(True, None, content_type, suffix)


def _loaded() -> dict[str, Kind]:
    global _kinds
    if _kinds is None:
        _kinds = load_kinds(_setup.tasks if _setup else "")
    return _kinds


def _reporter(request: Request) -> Callable[[float, str], None]:
    def report(fraction: float, message: str) -> None:
        if _setup is not None:
            tell(_setup.socket, Reported(request.id, request.attempt, fraction, message[:1000]))

    return report


@contextlib.contextmanager
def _printing_to(path: str) -> Iterator[None]:
    """Sends what is written to file descriptors 1 and 2 there for the length of one attempt."""
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    _write_to(out)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # the task has closed it: there is nothing to keep
                stream.flush()
        with contextlib.suppress(OSError):
            _write_to(os.open(os.devnull, os.O_WRONLY))


def _write_to(descriptor: int) -> None:
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if descriptor > 2:
        os.close(descriptor)


@contextlib.contextmanager
def _limited_memory(memory_mb: int | None) -> Iterator[None]:
    """Lets the attempt take so much more memory than this process has now: beyond it allocations raise MemoryError."""
    if memory_mb is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    pages = int(Path("/proc/self/statm").read_text().split()[5])  # data and stack: what the limit counts
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


def _reap(spare: set[int]) -> None:
    """Takes the exit codes of what an attempt has left behind, so that no zombies gather."""
    me = os.getpid()
    reap(p.pid for p in processes().values() if p.zombie and p.parent == me and p.pid not in spare)


def _plain(text: str) -> str:
    """An exact `str`, even of a subclass with a pickle of its own."""
    return "".join((text, " "))[:-1]


def _last_lines(error: BaseException) -> str:
    lines = "".join(traceback.format_exception(error)).rstrip().splitlines()
    return "\n".join(lines[-TRACEBACK_LINES:])
