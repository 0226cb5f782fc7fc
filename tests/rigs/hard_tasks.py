"""Task kinds that behave as badly as possible, for the pool's tests. Only children load them, as a file."""

import ctypes
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from headrace import Context, task
from headrace.child import zygote as child
from headrace.child.notifications import Born, send_notification

child_parent = os.getppid()  # the forkserver


@task
def echo(value: str) -> str:
    return value


@task
def environment() -> dict[str, str]:
    block = Path("/proc/self/environ").read_bytes().decode(errors="replace")
    return {**os.environ, "proc": block}


@task
def who() -> dict[str, int]:
    return {"pid": os.getpid(), "parent": os.getppid(), "session": os.getsid(0)}


@task
def modules() -> list[str]:
    return sorted(sys.modules)


@task
def many_bytes(size: int) -> bytes:
    return b"x" * size


@task
def file_in_scratch(context: Context) -> Path:
    path = context.scratch / "answer.csv"
    path.write_text("a,b\n")
    (context.scratch / "rest").mkdir()
    return path


ELSEWHERE = Path("/proc/version")  # a file that cannot be moved away, should a node try


@task
def file_elsewhere() -> Path:
    return ELSEWHERE


@task
def link_elsewhere(context: Context) -> Path:
    (context.scratch / "link").symlink_to(ELSEWHERE)
    return context.scratch / "link"


@task
def no_json() -> Any:
    return object()


class Hostile(Exception):
    def __reduce__(self) -> Any:
        return (os.system, ("touch /tmp/headrace-hostile-reduce",))

    def __str__(self) -> str:
        raise RuntimeError("no text either")


@task
def hostile_error() -> None:
    raise Hostile


class Indescribable(Exception):
    @property
    def __cause__(self) -> BaseException:  # type: ignore[override]
        raise RuntimeError("it cannot be read")


@task
def indescribable_error() -> None:
    raise Indescribable


@task
def raises(message: str) -> None:
    raise ValueError(message)


@task
def leaves(code: int) -> None:
    sys.exit(code)


@task
def interrupts() -> None:
    raise KeyboardInterrupt


@task
def exits(code: int) -> None:
    os._exit(code)


@task
def dies_of(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


@task
def segfaults() -> None:
    ctypes.string_at(0)


@task
def sleeps(seconds: float, flag: str = "") -> str:
    if flag:
        Path(flag).write_text(str(os.getpid()))
    time.sleep(seconds)
    return "slept"


@task
def waits(until: str) -> str:
    while not Path(until).exists():
        time.sleep(0.01)
    return "waited"


@task
def ignores_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)


@task
def speaks_to_the_node(words: str) -> str:
    """Writes bytes, given in hexadecimal, into its process's link."""
    for descriptor in range(3, 256):
        try:
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                os.write(descriptor, bytes.fromhex(words))
        except OSError:
            pass
    return "an answer that comes after another"


@task
def prints(lines: int) -> None:
    for n in range(lines):
        print(f"line {n:09d} " + "." * 84)
    os.write(2, b"the last words\n")


@task
def prints_much(megabytes: int) -> None:
    for n in range(megabytes * 16):
        os.write(1, f"{n:06d}".encode() + b"." * (65_536 - 6))
    os.write(2, b"the last words\n")


@task
def closes_descriptors() -> str:
    os.closerange(0, 256)
    return "closed"


@task
def starts_others(pids: str, then: str = "return", seconds: float = 0.0) -> None:
    """Starts a child, one in a session of its own, and an orphan; writes their pids into a file."""
    plain = subprocess.Popen(["sleep", "60"])
    session = subprocess.Popen(["sleep", "60"], start_new_session=True)
    detached = int(subprocess.check_output(["setsid", "sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"]))
    Path(pids + ".part").write_text(f"{os.getpid()} {plain.pid} {session.pid} {detached}")
    os.rename(pids + ".part", pids)
    if then == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if then == "wait":
        time.sleep(60)


@task
def forges_a_birth(parent: int) -> None:
    """Sends a Born notification that names another process as the forkserver."""
    send_notification(child._setup.socket, Born(0, parent, ""))  # type: ignore[union-attr]
    os._exit(1)


@task
def leaves_one_that_forges_its_birth(pid: str) -> None:
    """Leaves an orphan that sends a Born notification."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            send_notification(child._setup.socket, Born(0, child_parent, ""))  # type: ignore[union-attr]
            Path(pid + ".part").write_text(str(os.getpid()))
            os.rename(pid + ".part", pid)
            time.sleep(60)
        os._exit(0)
    while not Path(pid).exists():
        time.sleep(0.01)
    os._exit(1)


@task(memory_mb=64)
def takes_memory(megabytes: int) -> int:
    return len(bytearray(megabytes * 1024 * 1024))


@task
def reports(context: Context) -> None:
    for n in range(5):
        context.progress(n / 4, f"step {n}")


@task
def reports_for(seconds: float, context: Context) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        context.progress(0.5)
        time.sleep(0.001)


@task
def signals_its_child(number: int) -> None:
    """Signals the process that forked it."""
    os.kill(os.getppid(), number)
    time.sleep(60)


@task(timeout_s=0.4)
def limited() -> None:
    time.sleep(60)


@task
def fills_scratch(context: Context, file_mb: int, files: int = 1_000_000) -> None:
    for n in range(files):
        (context.scratch / f"{n}").write_bytes(bytes(file_mb * 1024 * 1024))
    time.sleep(60)


@task
def looks_at_its_scratch(context: Context) -> dict[str, Any]:
    found = os.listdir(context.scratch)
    (context.scratch / "left").write_text("for the next one")
    return {"scratch": str(context.scratch), "found": found}


@task
def temporary_file_is_in_scratch(context: Context) -> bool:
    with tempfile.NamedTemporaryFile() as file:
        return Path(file.name).resolve().parent == context.scratch.resolve()


@task(memory_mb=64)
def takes_memory_in_many_processes(processes: int, megabytes: int) -> None:
    for _ in range(processes):
        if os.fork() == 0:
            kept = bytearray(os.urandom(1024)) * (megabytes * 1024)
            time.sleep(60 + len(kept) % 2)
    time.sleep(60)


@task(memory_mb=64)
def lifts_its_limit() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    kept = bytearray(os.urandom(1024)) * (256 * 1024)
    time.sleep(60 + len(kept) % 2)


@task
def takes_unlimited_memory(megabytes: int) -> int:
    return len(bytearray(megabytes * 1024 * 1024))


@task
def dies_when_its_result_is_written() -> bytes:
    write = Path.write_bytes

    def last(path: Path, data: bytes) -> int:
        write(path, data)
        os._exit(1)

    Path.write_bytes = last  # type: ignore[method-assign,assignment]
    return b"x" * 100_000


@task
def dies_with_a_file(context: Context, file: str) -> None:
    (context.scratch / "half").write_bytes(bytes(10_000_000))
    Path(file).write_text(str(context.scratch))
    os._exit(1)
