"""What runs inside a pool's child: loads the kinds once, then one attempt after another.

Started by forkserver from a process that has imported only `headrace`. Everything that crosses back to the node is an
`Ended` of plain numbers, text and bytes made here: the node never unpickles what a task made. Results above
`INLINE_BYTES` stay in a file that the node has named, so memory does not grow with them.
"""

import ctypes
import os
import shutil
import signal
import socket
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from headrace.cluster import KindInfo
from headrace.errors import Invalid
from headrace.kinds import Context, Kind, load_kinds

INLINE_BYTES = 64 * 1024  # up to here a result comes back through the pool's pipe
LOG_BYTES = 256 * 1024
_PR_SET_PDEATHSIG = 1
TRACEBACK_LINES = 20


@dataclass(frozen=True, slots=True)
class Request:
    """One attempt, as the node asks for it. Paths are the node's choice, in a directory of its own."""

    id: str
    attempt: int
    name: str
    payload: bytes  # JSON
    scratch: str  # made before the call, removed by the node after it
    result_file: str  # where a result above INLINE_BYTES goes
    log_file: str  # what the task prints
    progress_socket: str  # datagram socket of the node; "" = nobody listens


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended in the child. `value` is None when the result is in `result_file`."""

    ok: bool
    value: bytes | None = None
    content_type: str = ""
    suffix: str = ""
    invalid: bool = False  # the payload does not fit: trying again cannot help
    error: str = ""  # last lines of the traceback


_kinds: dict[str, Kind] | None = None
_tasks = ""


def initialize(tasks: str, import_path: str) -> None:
    """Pool initializer: die with the parent, leave Headrace's own packages out of the way, take the user's path."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal goes to the whole group: the node decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # A user's package named `agents` or `gateway` must be found before ours: `headrace` is imported by now.
    own = str(Path(__file__).resolve().parent.parent)
    sys.path[:] = [import_path, *(p for p in sys.path if p and os.path.realpath(p) != own)]
    global _tasks
    _tasks = tasks


def die_with_parent() -> None:
    """Asks the kernel (Linux) to kill this process when its parent ends, and ends now if that has happened already."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def describe_kinds() -> list[dict[str, Any]]:
    """What the node announces: each kind's KindInfo as plain JSON values."""
    return [kind.info().to_json() for kind in _loaded().values()]


def kinds_of(described: list[dict[str, Any]]) -> list[KindInfo]:
    return [KindInfo.from_json(d) for d in described]


def run_attempt(request: Request) -> Ended:
    """One attempt, from payload to encoded result. Raises nothing that the task could have raised."""
    with _printing_to(request.log_file):
        try:
            kind = _loaded()[request.name]
            context = Context(request.id, request.attempt, Path(request.scratch), _reporter(request))
            return _store(kind, kind.call(request.payload, context), request)
        except Invalid as e:
            return Ended(False, invalid=True, error=e.detail)
        except BaseException as e:  # noqa: BLE001 - SystemExit and KeyboardInterrupt of a task end its attempt, not the child
            return Ended(False, error=_last_lines(e))


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
        return Ended(True, None, kind.content_type or "application/octet-stream", suffix)
    raw, content_type, suffix = encode_result(value, kind)
    if len(raw) <= INLINE_BYTES:
        return Ended(True, raw, content_type, suffix)
    Path(request.result_file).write_bytes(raw)
    return Ended(True, None, content_type, suffix)


def _loaded() -> dict[str, Kind]:
    global _kinds
    if _kinds is None:
        _kinds = load_kinds(_tasks)
    return _kinds


def _reporter(request: Request) -> Any:
    def report(fraction: float, message: str) -> None:
        if not request.progress_socket:
            return
        datagram = orjson.dumps(
            {"id": request.id, "attempt": request.attempt, "fraction": fraction, "message": message[:1000]}
        )
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as out:
            try:
                out.sendto(datagram, request.progress_socket)
            except OSError:
                pass  # nobody listens, or too fast: progress is news, not a promise

    return report


class _printing_to:
    """Sends what is written to file descriptors 1 and 2 into a file for the length of one attempt."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._kept = [os.dup(1), os.dup(2)]
        out = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.close(out)

    def __exit__(self, *_: object) -> None:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                pass  # the task has closed it: there is nothing to keep
        for number, kept in zip((1, 2), self._kept, strict=True):
            os.dup2(kept, number)
            os.close(kept)


def _last_lines(error: BaseException) -> str:
    lines = "".join(traceback.format_exception(error)).rstrip().splitlines()
    return "\n".join(lines[-TRACEBACK_LINES:])
