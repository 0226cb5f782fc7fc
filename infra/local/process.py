"""Child processes that never outlive us: started in a group of their own, killed by the kernel when we die.

Used for the broker, the database and every role. The kernel binds this to the thread that starts the child, so start
them from a thread that lives as long as the program (the main one).
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from headrace.errors import UsageError
from headrace.settings import address

# Runs in the child before the program itself: ask for SIGKILL at the parent's death, then become the program.
_TIED = (
    "import ctypes, os, sys\n"
    "if sys.platform == 'linux':\n"
    "    ctypes.CDLL(None).prctl(1, 9)\n"
    "    if os.getppid() != int(sys.argv[1]): sys.exit(9)\n"
    "os.execvp(sys.argv[2], sys.argv[2:])\n"
)


def start_tied(command: Sequence[str], log_file: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> subprocess.Popen[bytes]:
    """Starts `command` with its output appended to `log_file`."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-S", "-c", _TIED, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=env, cwd=cwd, start_new_session=True,
        )  # fmt: skip


def stop(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """SIGTERM, then SIGKILL to its whole group when it has not ended in time; True when it ended by itself."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            kill(process)
            return False
    return True


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the process and all of its group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def check_port_free(host_port: str, setting: str, what: str) -> None:
    """UsageError naming the setting when something listens on that address already."""
    host, port = address(host_port, setting)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((host, port))
        except OSError as e:
            raise UsageError(f"{what} cannot listen on {host_port} ({e.strerror}): end what uses that port, or give another in {setting}") from None


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def last_line(log_file: Path) -> str:
    """The last line of a log that says something, for a person who has to find out why a part died."""
    try:
        lines = log_file.read_text(errors="replace")[-8000:].splitlines()
    except OSError:
        return ""
    return next((line for line in reversed(lines) if line.strip()), "")
