"""One attempt, from its payload to its encoded result, in the runner.

Called by `headrace.child.runner`, in a process that nothing else has used and that ends with the attempt. Everything
that goes back to the node is a frame (`headrace.child.protocol`) of numbers, text and bytes: the node never unpickles
what a task made. Results above `INLINE_BYTES` stay in a file that the node has named, so memory does not grow with
them. What an attempt prints goes into a pipe that the node reads; its progress goes to the node's datagram socket
(`headrace.child.notifications`). A failing task never raises here: `run_attempt` returns how it ended.
"""

import contextlib
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from headrace.child.content_types import type_and_suffix
from headrace.child.encoding import Unencodable, encode_result
from headrace.child.errors import MAX_BYTES, describe_error
from headrace.child.main_process import shorten_socket_paths
from headrace.child.notifications import Reported, send_notification
from headrace.child.protocol import INLINE_BYTES, Ended, Request
from headrace.child.zygote import Setup, flush_streams, load_kinds_once
from headrace.contract.printable import printable
from headrace.errors import Invalid
from headrace.kinds import Context, Kind

_MIB = 1024 * 1024
# A timer or a signal of the task must not end the process while its answer is on the way. The others name a crash.
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGSYS, signal.SIGTRAP}
_DEFERRED = set(signal.valid_signals()) - _CRASHES


def run_attempt(request: Request, setup: Setup, on_return: Callable[[], None] = lambda: None) -> Ended:
    """Runs one attempt, from payload to encoded result. Never raises what the task raises.

    `on_return` is called right after the function has returned, with the process as the function has left it.
    """
    try:
        _enter_scratch(request.scratch, setup)
        _redirect_output(request.output)
        with _limited_memory(request.memory_mb or setup.memory_mb):
            return _attempt(request, setup, on_return)
    except BaseException as e:  # noqa: BLE001 - an error whose text raises, a task that closed our descriptors
        return Ended(False, error=f"{type(e).__name__}: the error that ended the attempt could not be formatted")
    finally:
        flush_streams()


def variables_of_attempts(setup: Setup) -> tuple[str, ...]:
    """The environment variables that hold the attempt's scratch directory."""
    return ("TMPDIR", "PWD") if setup.user is None else ("TMPDIR", "PWD", "HOME")


def _enter_scratch(scratch: str, setup: Setup) -> None:
    """Makes the scratch directory the working directory, the place of temporary files and, for a user of its own,
    the home directory.
    """
    os.chdir(scratch)
    for name in variables_of_attempts(setup):
        os.environ[name] = scratch
    tempfile.tempdir = None  # importing the kinds may have set it
    shorten_socket_paths(scratch)


def _attempt(request: Request, setup: Setup, on_return: Callable[[], None]) -> Ended:
    try:
        kind = load_kinds_once()[request.name]
        context = Context(request.id, request.attempt, Path(request.scratch), _reporter(request, setup))
        value = kind.call(request.payload, context)
        on_return()
        signal.pthread_sigmask(signal.SIG_BLOCK, _DEFERRED)
        return _store_result(kind, value, request)
    except Invalid as e:
        return Ended(False, invalid=True, error=_exact_str(printable(e.detail, MAX_BYTES)))
    except Unencodable as e:
        return Ended(False, permanent=True, error=printable(str(e), MAX_BYTES))
    except MemoryError as e:
        return Ended(False, out_of_memory=True, error=describe_error(e))
    except BaseException as e:  # noqa: BLE001 - a task's SystemExit or KeyboardInterrupt is an error like any other
        return Ended(False, error=describe_error(e))


def _store_result(kind: Kind, value: Any, request: Request) -> Ended:
    if isinstance(value, Path):
        path = _returned_file(value, Path(request.scratch))
        shutil.move(path, request.result_file)
        content_type, suffix = type_and_suffix(f"result{kind.suffix}" if kind.suffix else path.name)
        return Ended(True, None, kind.content_type or content_type, _exact_str(suffix))
    raw, content_type, suffix = encode_result(value, kind)
    if len(raw) <= INLINE_BYTES:
        return Ended(True, raw, content_type, suffix)
    Path(request.result_file).write_bytes(raw)
    return Ended(True, None, content_type, suffix)


def _returned_file(returned: Path, scratch: Path) -> Path:
    """The file that the task has returned; ValueError in words for what is no file of this attempt."""
    try:
        path = (scratch / returned).resolve(strict=True)
    except OSError as e:
        raise ValueError(
            f"the returned path {returned} cannot be read ({e.strerror or e}): a relative path is taken from the "
            "attempt's scratch directory, in which the function starts"
        ) from None
    if not path.is_relative_to(scratch.resolve()) or not path.is_file():
        raise Unencodable(f"the returned path {returned} is not a file in the attempt's scratch directory")
    return path


def _reporter(request: Request, setup: Setup) -> Callable[[float, str], None]:
    def report(fraction: float, message: str) -> None:
        send_notification(setup.socket, Reported(request.id, request.attempt, fraction, message[:1000]))

    return report


def _redirect_output(path: str) -> None:
    """What this process and those that it starts print goes to the path."""
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)
    if out > 2:
        os.close(out)


@contextlib.contextmanager
def _limited_memory(memory_mb: int) -> Iterator[None]:
    """Limits what the attempt may allocate beyond what this process has now; above it allocations raise MemoryError."""
    if not memory_mb:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    pages = int(Path("/proc/self/statm").read_text().split()[5])  # data and stack, which RLIMIT_DATA counts
    resource.setrlimit(resource.RLIMIT_DATA, (pages * resource.getpagesize() + memory_mb * _MIB, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _exact_str(text: str) -> str:
    """The text as an exact `str`. TypeError for anything else, which the node would refuse as a broken frame."""
    return "".join((text, " "))[:-1]
