"""Draws attempts: a kind, its payload, and the end that it must have.

The same seed and number always draw the same attempt, whatever came before.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agents.execution.job import AttemptEnd
from headrace.contract.states import Cause
from tests.faults.fuzz.expectations import OBJECTS, RAISED
from tests.faults.fuzz.harm import HARM
from tests.faults.fuzz.judging import Complaint, Judge, came_back, completed, either, ended, failed
from tests.faults.fuzz.mess import LAST, MESS
from tests.faults.fuzz.values import draw_text

_HANGS_S = 0.6

_LOOPED = {
    "returns": "done",
    "leaves tasks": "done",
    "leaves one that fails": "done",
    "starts a process": "x",
    "threads": "45",
    "closes": "done",
}
_NO_JSON = (
    "nan",
    "infinity",
    "keys",
    "object",
    "objects",
    "class",
    "function",
    "deep",
    "circle",
    "generator",
    "surrogate",
    "complex",
    "none-key",
    "deeper-than-JSON",
    "long-integer",
    "surrogate-text",
)
_REPORTED = (
    "plain",
    "surrogate",
    "long",
    "nan",
    "infinite",
    "text",
    "nothing",
    "huge",
    "negative",
    "object",
    "unprintable",
    "control",
)
_PRINTED = ("bytes", "much", "surrogate", "no newline", "lines")
_PATHS = {"out.csv": "text/csv", "a b.png": "image/png", "é.txt": "text/plain", "sub/out.json": "application/json"}
_ODD_PATHS = ("noext", ".hidden", "x.tar.gz", "new\nline.txt", "x." + "y" * 150, "x.\u202ecsv", "x.a/b", "x.c sv")


@dataclass(frozen=True, slots=True)
class Drawn:
    """One attempt to make. `judge` says what is wrong with its end, or None."""

    kind: str
    payload: str  # JSON text
    judge: Judge
    timeout_s: float = 60.0
    cancel_after_s: float | None = None
    may_be_refused: bool = False  # before it runs, as the gateway and the intake refuse
    groups_well: bool = field(default=True)  # may run in one slot's turn with others


def draw(seed: int, number: int) -> Drawn:
    rng = random.Random(f"{seed}/{number}")
    [make] = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
    return make(rng)


def _mess(rng: random.Random) -> Drawn:
    names = rng.sample(sorted(MESS), rng.randint(1, 5))
    names.sort(key=lambda name: LAST.index(name) if name in LAST else -1)
    then = rng.choice(["return"] * 5 + ["raise", "exit", "leave", "kill", "hang"])
    ends: dict[str, Judge] = {
        "return": completed(b"a mess"),
        "raise": failed(Cause.ERROR, "ValueError: after a mess"),
        "leave": failed(Cause.ERROR, "SystemExit: 3"),
        "exit": failed(Cause.PROCESS_DEATH),
        "kill": failed(Cause.PROCESS_DEATH),
        "hang": failed(Cause.TIMEOUT),
    }
    return _drawn("makes_a_mess", ends[then], _HANGS_S * 2 if then == "hang" else 60.0, names=names, then=then)


def _harm(rng: random.Random) -> Drawn:
    names = [
        *rng.sample(sorted(MESS.keys() - set(LAST)), rng.randint(0, 2)),
        *rng.sample(sorted(HARM), rng.randint(1, 2)),
    ]
    return _drawn("makes_a_mess", ended, 10.0, names=names, then=rng.choice(["return", "raise", "exit"]))


def _raise(rng: random.Random) -> Drawn:
    what = rng.choice(list(RAISED))
    return _drawn("raises", failed(Cause.ERROR, RAISED[what]), what=what)


def _die(rng: random.Random) -> Drawn:
    how = rng.choice(["kill", "abort", "segv", "term", "in a thread", "kill", "abort", "segv", "cpu"])
    return _drawn("dies", failed(Cause.PROCESS_DEATH), how=how)


def _hang(rng: random.Random) -> Drawn:
    how = rng.choice(["stopped", "busy", "deaf", "in a child", "asleep"])
    return _drawn("hangs", failed(Cause.TIMEOUT), _HANGS_S, how=how)


def _cancelled(rng: random.Random) -> Drawn:
    drawn = _hang(rng)
    after = rng.choice([0.0, 0.001, 0.01, 0.05, 0.3])
    return Drawn("hangs", drawn.payload, failed(Cause.PROCESS_DEATH, "cancelled"), 60.0, after, groups_well=False)


def _memory(rng: random.Random) -> Drawn:
    if rng.random() < 0.5:
        return _drawn("takes_memory", failed(Cause.OUT_OF_MEMORY), megabytes=rng.choice([100, 1000, 100_000]))
    return _drawn("takes_memory", completed(b"10485760"), megabytes=10)


def _echo(rng: random.Random) -> Drawn:
    text, plain = draw_text(rng)

    def judge(end: AttemptEnd) -> Complaint:
        return came_back(end, {"v": json.loads(text)})

    return Drawn("echo", f'{{"value": {{"v": {text}}}}}', judge, may_be_refused=not plain)


def _typed(rng: random.Random) -> Drawn:
    """Whatever the check takes, the kind takes."""
    values: dict[str, list[Any]] = {
        "number": [0, 1.0, 1e5, -0.0, 2**64, -1, 1.5, "1", True, None],
        "ratio": [0, 1, 0.5, 2**70, "0.5", 1e308, None],
        "day": ["2020-02-20", "2020-02-30", "yesterday", 0, 1.5, None, "2020-02-20T00:00:00", ""],
        "price": ["1.50", 1, 1.5, "one", "NaN", "1e5", " 1", None, "1_0"],
        "names": [{}, {"1": "a"}, {"one": "a"}, {"1.0": "a"}, {"-1": "a", "01": "b"}, {" 1": ""}, None],
        "pair": [[1, "a"], [1.0, "a"], ["a", 1], [1], [1, "a", 2], None],
        "choice": ["a", "c", 1, 1.0, 1.5, True, None],
        "inner": [
            {},
            {"at": "2020-02-20T10:00:00Z"},
            {"at": "2020-02-20 10:00"},
            {"at": 1},
            {"ids": ["nope"]},
            {"ids": ["0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a11"]},
            {"wait": "PT1S"},
            {"wait": 1.5},
            {"wait": "soon"},
            None,
        ],
        "small": [0, 10, 11, -1, 3.0, 10.5],
    }
    names = rng.sample(sorted(values), rng.randint(1, 3))
    payload = {name: rng.choice(values[name]) for name in names}
    return Drawn("typed", json.dumps(payload), completed(b"typed"), may_be_refused=True)


def _no_json(rng: random.Random) -> Drawn:
    return _drawn("returns_no_json", failed(Cause.ERROR), what=rng.choice(_NO_JSON))


def _object(rng: random.Random) -> Drawn:
    what = rng.choice(list(OBJECTS))
    return _drawn("returns_object", lambda end: came_back(end, OBJECTS[what]), what=what)


def _bytes(rng: random.Random) -> Drawn:
    size = rng.choice([0, 1, 65_535, 65_536, 65_537, 3_000_000])
    raw = (bytes(range(251)) * (size // 251 + 1))[:size]
    return _drawn("returns_bytes", completed(raw), size=size, of=rng.choice(["bytes", "bytearray", "memoryview"]))


def _path(rng: random.Random) -> Drawn:
    name, how = rng.choice(list(_PATHS)), rng.choice(["relative", "relative", "absolute"])
    return _drawn("returns_path", lambda end: _file(end, name), name=name, how=how)


def _file(end: AttemptEnd, name: str) -> Complaint:
    suffix = "." + name.rpartition(".")[2]
    if wrong := completed(b"a,b\n1,2\n")(end):
        return wrong
    if end.suffix != suffix or not end.content_type.startswith(_PATHS[name]):
        return f"{name} came back as {end.suffix}, {end.content_type}"
    return None


def _odd_path(rng: random.Random) -> Drawn:
    return _drawn("returns_path", either(b"a,b\n1,2\n"), name=rng.choice(_ODD_PATHS), how="relative")


def _wrong_path(rng: random.Random) -> Drawn:
    how = rng.choice(["missing", "directory", "link out", "outside", "pipe"])
    return _drawn("returns_path", failed(Cause.ERROR), name=rng.choice(list(_PATHS)), how=how)


def _report(rng: random.Random) -> Drawn:
    return _drawn("reports", completed(b"told"), what=rng.choice(_REPORTED))


def _print(rng: random.Random) -> Drawn:
    return _drawn("prints", completed(b"printed"), what=rng.choice(_PRINTED))


def _loop(rng: random.Random) -> Drawn:
    if rng.random() < 0.2:
        return _drawn("waits_in_a_loop", failed(Cause.ERROR, "ValueError: in a loop"), how="raises")
    if rng.random() < 0.2:
        return _drawn("runs_a_loop", completed(b"6"), times=4)
    how = rng.choice(list(_LOOPED))
    return _drawn("waits_in_a_loop", completed(_LOOPED[how].encode()), how=how)


def _processes(rng: random.Random) -> Drawn:
    what, context = rng.choice(["executor", "pool", "processes", "manager"]), rng.choice(_CONTEXTS)
    found = completed(b"[0,1,4,9,16]")
    return _drawn("uses_processes", found, 100.0, what=what, context=context, closes=rng.random() < 0.5)


_CONTEXTS = ("default", "fork", "spawn", "forkserver")
_WEIGHTS: dict[Callable[[random.Random], Drawn], float] = {
    _mess: 30,
    _harm: 8,
    _raise: 8,
    _die: 5,
    _hang: 2,
    _cancelled: 2,
    _memory: 2,
    _echo: 12,
    _typed: 5,
    _no_json: 4,
    _object: 3,
    _bytes: 3,
    _path: 4,
    _odd_path: 2,
    _wrong_path: 3,
    _report: 4,
    _print: 4,
    _loop: 5,
    _processes: 2,
}


def _drawn(kind: str, judge: Judge, timeout_s: float = 60.0, **payload: Any) -> Drawn:
    return Drawn(kind, json.dumps(payload), judge, timeout_s)
