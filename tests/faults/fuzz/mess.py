"""What a task may leave behind or change, one move a function: none keeps its own attempt from completing."""

import atexit
import contextlib
import ctypes
import decimal
import fcntl
import gc
import importlib
import locale
import logging
import multiprocessing
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

MARK = os.environ.get("FUZZ_MARK", "fuzz")  # in the environment, and the command, of everything that is started here
kept: list[object] = []  # a module's own state; a canary looks at it
scratch = Path()  # of the attempt; set before its moves
_LATER_S = 3.0  # long after the attempt has ended

Move = Callable[[], None]


def _sleeper() -> list[str]:
    return [sys.executable, "-c", "import time; time.sleep(90)", MARK]


def close_streams() -> None:
    for stream in (sys.__stdout__, sys.__stderr__, sys.__stdin__):  # another move may have put None in their place
        stream.close()


def replace_streams() -> None:
    sys.stdout = sys.stderr = sys.stdin = None


def close_standard_descriptors() -> None:
    os.closerange(0, 3)


def leak_descriptors() -> None:
    null = open("/dev/null")  # noqa: SIM115 - left open on purpose
    kept.extend([null, os.pipe(), *(os.dup(null.fileno()) for _ in range(40))])


def leave_alarm() -> None:
    signal.alarm(20)


def leave_timers() -> None:
    signal.setitimer(signal.ITIMER_REAL, 20)
    signal.setitimer(signal.ITIMER_VIRTUAL, 20)
    signal.setitimer(signal.ITIMER_PROF, 20)


def leave_thread_that_exits() -> None:
    threading.Timer(_LATER_S, os._exit, [7]).start()


def leave_thread_that_prints() -> None:
    def print_on() -> None:
        while True:
            with contextlib.suppress(Exception):
                os.write(1, b"from a thread of another attempt\n")
                print("from a thread of another attempt", flush=True)
            time.sleep(0.002)

    threading.Thread(target=print_on, daemon=True).start()


def leave_threads_that_wait() -> None:
    for daemon in (False, True):
        threading.Thread(target=time.sleep, args=(60,), daemon=daemon).start()


def leave_thread_that_raises() -> None:
    threading.Timer(0.001, lambda: 1 / 0).start()


def leave_processes() -> None:
    subprocess.Popen(_sleeper())
    subprocess.Popen(_sleeper(), start_new_session=True)


def leave_daemon() -> None:
    """As a program does that becomes a daemon: two forks and a session of its own."""
    if (child := os.fork()) == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(sys.executable, _sleeper())
        os._exit(0)
    with contextlib.suppress(ChildProcessError):  # where SIGCHLD is ignored
        os.waitpid(child, 0)


def leave_process_that_prints() -> None:
    words = "while :; do echo from a process of another attempt; /bin/sleep 0.01; done"
    subprocess.Popen(["/bin/sh", "-c", words, MARK], start_new_session=True)


def leave_fork() -> None:
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)


def leave_zombie() -> None:
    if os.fork() == 0:
        os._exit(0)


def lower_limits() -> None:
    for limit, value in ((resource.RLIMIT_CPU, 600), (resource.RLIMIT_FSIZE, 10**7), (resource.RLIMIT_NPROC, 4000)):
        resource.setrlimit(limit, (value, value))


def change_environment() -> None:
    os.environ.clear()
    os.environ |= {"PATH": "", "PYTHONPATH": "/nowhere", "LD_PRELOAD": "", "HOME": "/nowhere", "TMPDIR": "/nowhere"}


def change_time_zone() -> None:
    os.environ["TZ"] = "Asia/Kathmandu"
    time.tzset()


def change_directory() -> None:
    os.chdir("/")


def lose_directory() -> None:
    gone = tempfile.mkdtemp(dir=scratch)
    os.chdir(gone)
    os.rmdir(gone)


def change_umask() -> None:
    os.umask(0o777)


def seed_random() -> None:
    random.seed(1)


def change_path() -> None:
    sys.path[:] = ["/nowhere"]


def shadow_modules() -> None:
    """A file that is named as a module of the standard library, and comes first."""
    (scratch / "colorsys.py").write_text("raise SystemExit(3)\n")
    sys.path.insert(0, str(scratch))
    sys.modules.pop("colorsys", None)
    with contextlib.suppress(BaseException):
        importlib.import_module("colorsys")


def lower_recursion_limit() -> None:
    with contextlib.suppress(RecursionError):
        sys.setrecursionlimit(150)


def change_interpreter() -> None:
    sys.setswitchinterval(5.0)
    sys.set_int_max_str_digits(0)
    sys.dont_write_bytecode = not sys.dont_write_bytecode
    sys.excepthook = sys.unraisablehook = sys.displayhook = threading.excepthook = print
    sys.argv[:] = ["other"]


def trace() -> None:
    sys.settrace(lambda *_: None)
    threading.setprofile(lambda *_: None)


def change_logging() -> None:
    logging.basicConfig(level=logging.DEBUG, force=True, handlers=[logging.NullHandler()])
    logging.disable(logging.CRITICAL)
    logging.shutdown()


def change_warnings() -> None:
    warnings.simplefilter("error")


def change_locale() -> None:
    with contextlib.suppress(locale.Error):
        locale.setlocale(locale.LC_ALL, "C.UTF-8")
    decimal.getcontext().prec = 2


def change_gc() -> None:
    gc.disable()
    gc.set_threshold(1)
    gc.callbacks.append(lambda *_: None)


def change_defaults() -> None:
    socket.setdefaulttimeout(0.001)
    tempfile.tempdir = "/nowhere"
    multiprocessing.set_start_method("spawn", force=True)


def lower_priority() -> None:
    os.nice(3)
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])


def change_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGINT, lambda *_: None)


def block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)  # it waits: no other thread may take it


def leave_session() -> None:
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)


def live_on() -> None:
    """Asks the kernel not to kill this process with its parent."""
    ctypes.CDLL(None).prctl(1, 0)
    ctypes.CDLL(None).prctl(36, 1)


def register_at_exit() -> None:
    atexit.register(os._exit, 9)


def register_at_fork() -> None:
    os.register_at_fork(before=lambda: None, after_in_child=lambda: os._exit(11))


def change_own_state() -> None:
    kept.append("changed")


def listen() -> None:
    server = socket.socket(socket.AF_UNIX)
    with contextlib.suppress(OSError):
        server.bind(f"\0{MARK}-{os.getpid()}")
        server.listen()
    kept.append(server)


def lock_file() -> None:
    file = open("/proc/self/exe", "rb")  # noqa: SIM115 - left locked on purpose
    fcntl.flock(file, fcntl.LOCK_SH)
    kept.append(file)


def write_files() -> None:
    (scratch / "left.txt").write_text("for the next one")
    Path(tempfile.mkdtemp(dir=scratch), "deep").mkdir()
    (scratch / "closed").mkdir(exist_ok=True)
    (scratch / "closed" / "file").write_text("x")
    (scratch / "closed").chmod(0)


def share_memory() -> None:
    name = f"{MARK}-{os.getpid()}-{len(kept)}"
    kept.append(SharedMemory(name, create=True, size=100_000))


def become_nobody() -> None:
    if os.geteuid() == 0:
        os.setresgid(65_534, 65_534, 65_534)
        os.setresuid(65_534, 65_534, 65_534)


MESS: dict[str, Move] = {
    name: move
    for name, move in globals().copy().items()
    if getattr(move, "__module__", "") == __name__ and not name.startswith("_")
}
LAST = (
    "close_standard_descriptors",
    "change_warnings",
    "lower_recursion_limit",
    "become_nobody",
)  # other moves could fail after these
