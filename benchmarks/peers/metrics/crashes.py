"""Rows F1, F2 and G: a task that kills its process once, the end of the whole worker, and one that always kills."""

import time
from collections.abc import Callable

from ..system import Handle, NotDone, System, TaskFailed
from .throughput import lines

_FIRST_WAIT_S, _NEXT_WAIT_S = 30.0, 20.0
_SLEEP_S, _RUNNING_S, _RETURN_S, _TWICE_S = 5.0, 1.0, 30.0, 8.0
_POISON_S, _OTHERS = 20.0, 10


def task_kills_its_process(system: System) -> dict[str, float | str]:
    """Seconds until the second attempt has ended, how often it ran, and whether another task runs afterwards."""
    file = system.bench.folder / "kill-once"
    begun = time.monotonic()
    ended = _outcome(system, lambda: system.submit("kill_once", str(file)), _FIRST_WAIT_S)
    took_s = time.monotonic() - begun
    after = _outcome(system, lambda: system.submit("noop", 7), _NEXT_WAIT_S)
    return {
        "F1_s": took_s if ended == "ok" else ended,
        "F1_attempts": len(list(lines(file))),
        "F1_next_task": after,
        "F1_worker": system.worker_state(),
    }


def worker_killed(system: System) -> dict[str, float | str]:
    """Seconds from SIGKILL of the worker to the new start of two tasks; a new worker starts 1 s after the kill."""
    file = system.bench.folder / "marks"

    def marks(what: str) -> list[list[str]]:
        return [line for line in lines(file) if line[0] == what]

    handles = [system.submit("mark_sleep", i, _SLEEP_S, str(file)) for i in range(2)]
    _until(lambda: len(marks("start")) == 2, _FIRST_WAIT_S)
    time.sleep(_RUNNING_S)
    system.kill_worker()
    killed_ns = time.monotonic_ns()
    time.sleep(1)
    system.start_worker()
    if _until(lambda: len(marks("end")) == 2, _RETURN_S):
        time.sleep(_TWICE_S)  # for one that would run twice
    again = [line for line in marks("start") if int(line[3]) > killed_ns]
    first = {i: min(int(line[3]) for line in again if line[1] == i) for i in {line[1] for line in again}}
    lost = 2 - len({line[1] for line in marks("end")})
    return {
        "F2_s": max((ns - killed_ns) / 1e9 for ns in first.values())
        if not lost
        else f"{lost} of 2 not back in {_RETURN_S:.0f} s",
        "F2_starts": len(again),
        "F2_client": ", ".join(_state(system, h, 1.0) for h in handles),
    }


def poison(system: System) -> dict[str, float | str]:
    """Seconds until ten other tasks have ended that follow a poison task by 1 s, and how that one ends in 20 s."""
    file = system.bench.folder / "poison"
    begun = time.monotonic()
    bad = system.submit("poison", str(file))
    time.sleep(1)
    sent = time.monotonic()
    try:
        others = [system.submit("noop", i) for i in range(_OTHERS)]
    except TaskFailed:  # a pool that is dead
        others = []
    ended = [_state(system, h, _left(begun)) for h in others]
    took_s, good = time.monotonic() - sent, ended.count("ok")
    state = _state(system, bad, _left(begun))
    return {
        "G_others_s": took_s if good == _OTHERS else f"{good} of {_OTHERS}",
        "G_attempts": len(list(lines(file))),
        "G_poison": state,
        "G_worker": system.worker_state(),
    }


def _left(begun: float) -> float:
    return max(0.2, begun + _POISON_S - time.monotonic())


def _outcome(system: System, submit: Callable[[], Handle], timeout_s: float) -> str:
    """As `_state`, of a task that `submit` returns; a pool that is dead takes none."""
    try:
        return _state(system, submit(), timeout_s)
    except TaskFailed as e:
        return str(e)


def _state(system: System, handle: Handle, timeout_s: float) -> str:
    """'ok', or why a task has not completed in this time."""
    try:
        system.wait(handle, timeout_s)
    except TaskFailed as e:
        return f"failed: {str(e)[:110]}"
    except NotDone:
        return "no answer"
    return "ok"


def _until(happened: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
