"""Processes that die, hang or take too much memory. Loaded in children alone, as a file."""

import contextlib
import os
import resource
import signal
import subprocess
import threading
import time

from headrace import task


@task(timeout_s=60)
def dies(how: str) -> None:
    if how == "cpu":
        resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
        while True:
            pass
    if how == "in a thread":
        threading.Thread(target=os._exit, args=(6,)).start()
        time.sleep(60)
    os.kill(os.getpid(), {"abort": signal.SIGABRT, "segv": signal.SIGSEGV, "term": signal.SIGTERM}.get(how, 9))
    time.sleep(60)


@task(timeout_s=60)
def hangs(how: str) -> None:
    if how == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if how == "busy":
        while True:
            pass
    if how == "deaf":
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            with contextlib.suppress(OSError):
                signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    if how == "in a child":
        subprocess.run(["sleep", "90", "0"], check=False)
    time.sleep(60)


@task(timeout_s=60, memory_mb=64)
def takes_memory(megabytes: int) -> int:
    return len(bytearray(megabytes * 1024 * 1024))
