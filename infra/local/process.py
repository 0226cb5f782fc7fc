"""Processes, ports and logs, below `service`: children that die with their parent, free ports, a log's last line.

Called by `service`, by the embedded parts and by tests.
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from headrace.errors import UsageError

_FIRST_PORT = 10_000  # the lowest port of free_port: well-known services have lower ones
_LOG_MAX_BYTES = 8 * 2**20  # a larger log is rotated when its process starts

# Linux kills the child when the thread that forked it ends, so one thread that never ends forks all children.
_spawner = ThreadPoolExecutor(1, thread_name_prefix="spawner")

# Runs in the child before the program: it will die with its parent, and ends at once if the parent is dead already.
_TIED = """
import ctypes, os, signal, sys
libc = ctypes.CDLL(None)
if hasattr(libc, "prctl"):
    libc.prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def start_tied(command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Starts `command` in a session of its own, which Ctrl-C does not reach; its output is appended to `log`.

    On Linux the kernel kills it when this process dies for any reason.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    rotate_log(log)
    with log.open("ab") as out:
        return _spawner.submit(
            subprocess.Popen,
            _tied(command),
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        ).result()


def run_tied(
    command: Sequence[str], *, timeout_s: float | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs `command` to its end and returns its exit code and output; it dies with this process, as in `start_tied`.

    TimeoutExpired, after it was killed, when it takes longer than `timeout_s`.
    """
    process = _spawner.submit(lambda: _captured(_tied(command), env)).result()
    try:
        out, err = process.communicate(timeout=timeout_s)
    except BaseException:  # Ctrl-C too
        process.kill()
        process.wait()
        raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _captured(command: list[str], env: Mapping[str, str] | None) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)


def _tied(command: Sequence[str]) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *command]


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the process and the rest of its group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # the group is empty
    process.wait()


def end_left_over(pid_file: Path, mark: str) -> None:
    """Ends a process that an earlier run left behind, if `mark` is in its command line.

    UsageError when it does not end within 10 s.
    """
    try:
        pid = int(pid_file.read_text())
    except (OSError, ValueError):
        return
    if mark.encode() not in _command_line(pid):
        return  # it has ended, and another program may have its pid
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while mark.encode() in _command_line(pid):
        if time.monotonic() > deadline:
            raise UsageError(f"process {pid} of an earlier run does not end: kill it (kill -9 {pid}) and start again")
        time.sleep(0.02)


def _command_line(pid: int) -> bytes:
    """Empty for a process that has ended, also for a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def free_port(host: str = "127.0.0.1") -> int:
    """A port on which nothing listens at this moment.

    Chosen at random, so that concurrent callers rarely get the same one, and below the range of outgoing connections,
    so that none of them takes it before the server does.
    """
    below = _first_outgoing_port()
    for port in random.sample(range(_FIRST_PORT, below), min(200, below - _FIRST_PORT)):
        if not bind_error(host, port):
            return port
    with socket.socket() as s:
        s.bind((host, 0))
        chosen: int = s.getsockname()[1]
        return chosen


def _first_outgoing_port() -> int:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = 32768  # Linux's default
    return max(first, _FIRST_PORT)


def bind_error(host: str, port: int) -> str:
    """The reason why no server could listen there now, or an empty text."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(*found[:2]) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(found[4])
    except OSError as e:
        return e.strerror or str(e)
    return ""


def rotate_log(log: Path) -> None:
    """Renames a log above `_LOG_MAX_BYTES` to `<log>.1`, and replaces an older one."""
    if log.exists() and log.stat().st_size > _LOG_MAX_BYTES:
        log.replace(log.with_name(log.name + ".1"))


def last_line(log: Path, limit: int = 300) -> str:
    """The last non-empty line of a log, for messages about a part that died; cut to `limit` characters."""
    try:
        with log.open("rb") as f:
            f.seek(max(0, f.seek(0, os.SEEK_END) - 16_384))
            lines = [line.strip() for line in f.read().decode(errors="replace").splitlines()]
    except OSError:
        return "it has no log"
    found = next((line for line in reversed(lines) if line), "its log is empty")
    return found if len(found) <= limit else found[: limit - 1] + "…"
