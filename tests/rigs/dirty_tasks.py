"""Task kinds that leave their process in a mess, and a canary that tells what it finds. Only children load them."""

import _thread
import contextlib
import gc
import locale
import logging
import os
import random
import resource
import signal
import stat
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headrace import task

at_import = {"hits": 0}
log = logging.getLogger("kinds")


def closes_stdout() -> None:
    sys.stdout.close()
    sys.stderr.close()


def replaces_streams() -> None:
    sys.stdout = sys.stderr = None  # type: ignore[assignment]
    os.close(0)
    os.close(1)


def closes_everything_but_its_answer() -> None:
    for descriptor in range(3, 256):
        if _is_open(descriptor) and not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            os.close(descriptor)


def leaves_descriptors_open() -> None:
    for _ in range(50):
        os.dup(0)


def sets_an_alarm() -> None:
    signal.alarm(1)


def sets_a_timer_that_raises() -> None:
    def raises(*_: object) -> None:
        raise RuntimeError("a timer of the attempt before")

    signal.signal(signal.SIGALRM, raises)
    signal.setitimer(signal.ITIMER_REAL, 0.3, 0.05)


def leaves_a_thread_that_exits() -> None:
    threading.Timer(0.3, lambda: os._exit(9)).start()


def leaves_a_thread_that_prints() -> None:
    def prints() -> None:
        while True:
            with contextlib.suppress(OSError, ValueError):
                os.write(1, b"a thread of the attempt before\n")
                print("a thread of the attempt before", flush=True)
            time.sleep(0.01)

    threading.Thread(target=prints, daemon=True).start()


def leaves_a_thread_that_interrupts() -> None:
    def interrupts() -> None:
        time.sleep(0.3)
        _thread.interrupt_main()

    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupts, daemon=True).start()


def leaves_text_unprinted() -> None:
    sys.stdout = open(os.dup(1), "w", buffering=1_000_000)  # noqa: SIM115
    print("text of the attempt before", end="")


def limits_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))


def limits_all_else() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (1 << 33, 1 << 33))
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
    resource.setrlimit(resource.RLIMIT_CPU, (500, 500))


def changes_the_environment() -> None:
    os.environ["LEFT"] = "over"
    del os.environ["PATH"]


def changes_the_time_zone() -> None:
    os.environ["TZ"] = "Pacific/Apia"
    time.tzset()


def changes_directory_and_umask() -> None:
    os.chdir("/")
    os.umask(0o777)


def seeds_random() -> None:
    random.seed(1)


def forgets_modules() -> None:
    for name in ("json", "pathlib", "headrace", "headrace.kinds", "typing"):
        sys.modules.pop(name, None)


def plants_a_module() -> None:
    sys.modules["planted"] = types.ModuleType("planted")
    sys.path.insert(0, "/nowhere")
    sys.path_hooks.clear()
    sys.meta_path.clear()


def lowers_the_recursion_limit() -> None:
    sys.setrecursionlimit(150)


def reconfigures_logging() -> None:
    logging.disable(logging.CRITICAL)
    logging.basicConfig(level=1, force=True)
    logging.getLogger("kinds").setLevel(logging.CRITICAL)


def reconfigures_warnings() -> None:
    warnings.simplefilter("error")


def changes_the_locale() -> None:
    locale.setlocale(locale.LC_ALL, "C.UTF-8" if locale.setlocale(locale.LC_ALL) == "C" else "C")


def is_nice() -> None:
    os.nice(5)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def ignores_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGALRM, signal.SIGTERM})


def traces_and_collects_nothing() -> None:
    gc.disable()
    sys.setswitchinterval(1.0)
    sys.setprofile(lambda *_: None)
    threading.setprofile(lambda *_: None)
    sys.excepthook = lambda *_: os._exit(9)


def patches_the_library() -> None:
    time.time_ns = lambda: 0
    os.getpid = lambda: 999_999_999  # no process: whatever believes it must harm nobody
    Path.resolve = None  # type: ignore[method-assign,assignment]
    at_import["hits"] += 1


def kills_its_group() -> None:
    signal.signal(signal.SIGTERM, lambda *_: None)
    os.killpg(os.getpgrp(), signal.SIGTERM)


def leaves_a_forked_copy_that_returns() -> None:
    os.fork()


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


MESSES: dict[str, Callable[[], None]] = {
    f.__name__: f
    for f in (
        closes_stdout,
        replaces_streams,
        closes_everything_but_its_answer,
        leaves_descriptors_open,
        sets_an_alarm,
        sets_a_timer_that_raises,
        leaves_a_thread_that_exits,
        leaves_a_thread_that_prints,
        leaves_a_thread_that_interrupts,
        leaves_text_unprinted,
        limits_files,
        limits_all_else,
        changes_the_environment,
        changes_the_time_zone,
        changes_directory_and_umask,
        seeds_random,
        forgets_modules,
        plants_a_module,
        lowers_the_recursion_limit,
        reconfigures_logging,
        reconfigures_warnings,
        changes_the_locale,
        is_nice,
        ignores_signals,
        traces_and_collects_nothing,
        patches_the_library,
        kills_its_group,
        leaves_a_forked_copy_that_returns,
    )
}


@task
def makes_a_mess(mess: str) -> str:
    MESSES[mess]()
    return "done"


@task(reuse_process=True)
def makes_a_mess_in_a_kept_process(mess: str) -> str:
    MESSES[mess]()
    return "done"


@task(reuse_process=True)
def canary_in_a_kept_process() -> dict[str, Any]:
    return look_around()


@task(reuse_process=True)
def who_in_a_kept_process(padding: str = "") -> dict[str, int]:
    return {"pid": os.getpid(), "parent": os.getppid()}


@task(reuse_process=True)
def ends_in_a_kept_process(how: str) -> None:
    {"exit": lambda: os._exit(3), "kill": lambda: os.kill(os.getpid(), 9), "raise": lambda: 1 / 0}[how]()


@task(reuse_process=True)
def sleeps_in_a_kept_process(seconds: float) -> None:
    time.sleep(seconds)


@task
def canary() -> dict[str, Any]:
    return look_around()


def look_around() -> dict[str, Any]:
    """What its process looks like, without what differs between any two processes."""
    print("the canary prints")
    time.sleep(0.6)  # what an attempt before has left has time to strike
    print("until its end", file=sys.stderr)
    return {
        "descriptors": [n for n in range(256) if _is_open(n)],
        "threads": threading.active_count(),
        "tasks": len(os.listdir("/proc/self/task")),
        "limits": [resource.getrlimit(n) for n in range(16)],
        "environment": {k: v for k, v in os.environ.items() if k not in ("TMPDIR", "PWD", "HOME")},
        "zone": [*time.tzname, time.timezone],
        "directory_is_scratch": os.getcwd() == os.environ["TMPDIR"],
        "files": os.listdir(),
        "umask": os.umask(0),
        "modules": sorted(sys.modules),
        "path": sys.path,
        "hooks": [len(sys.path_hooks), len(sys.meta_path), sys.excepthook is sys.__excepthook__],
        "recursion": sys.getrecursionlimit(),
        "logging": [logging.root.level, len(logging.root.handlers), logging.root.manager.disable, log.level],
        "warnings": len(warnings.filters),
        "locale": locale.setlocale(locale.LC_ALL),
        "nice": [os.nice(0), len(os.sched_getaffinity(0))],
        "signals": [str(signal.getsignal(n)).partition(" at 0x")[0] for n in sorted(signal.valid_signals())],
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "timer": signal.getitimer(signal.ITIMER_REAL),
        "interpreter": [gc.isenabled(), sys.getswitchinterval(), sys.getprofile() is None],
        "library": [
            time.time_ns() > 0,
            os.getpid() < 999_999_999,
            Path(".").resolve() == Path(os.environ["TMPDIR"]).resolve(),
        ],
        "at_import": at_import,
        "stdin": sys.stdin.read(),
    }


@task
def draws() -> list[float]:
    return [random.random() for _ in range(3)]


@task(reuse_process=True)
def draws_in_a_kept_process() -> list[float]:
    return draws()


@task
def writes_a_table(row: str) -> Path:
    with open("out.csv", "a") as file:
        file.write(f"row\n{row}\n")
    return Path("out.csv")
