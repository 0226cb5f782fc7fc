"""Task kinds with odd results, errors and reports, for tests of what a child tells. Loaded in children, as a file."""

import asyncio
import dataclasses
import datetime
import enum
import math
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import BaseModel

from headrace import Context, task


class Point(NamedTuple):
    x: int
    y: int


class Level(enum.Enum):
    LOW = 1


class Measured(BaseModel):
    value: float


@dataclasses.dataclass
class Row:
    n: int
    _hidden: int = 0


def nested(levels: int, core: Any = None) -> Any:
    value = core
    for _ in range(levels):
        value = [value]
    return value


def circle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


RESULTS: dict[str, Callable[[], Any]] = {
    "nan": lambda: {"a": [1.0, math.nan]},
    "inf": lambda: [math.inf],
    "minus inf": lambda: (-math.inf,),
    "bare nan": lambda: math.nan,
    "nan in a model": lambda: {"m": Measured(value=math.nan)},
    "nan in a set": lambda: {math.nan},
    "nan key": lambda: {math.nan: 1},
    "same keys": lambda: {"d": {1: "a", "1": "b"}},
    "same bool keys": lambda: {True: 1, "true": 2},
    "tuple key": lambda: {(1, 2): 3},
    "bytes inside": lambda: {"a": b"x"},
    "generator": lambda: (n for n in range(3)),
    "function": lambda: print,
    "too long": lambda: {"n": 10**5000},
    "too deep": lambda: nested(300),
    "too deep with none": lambda: nested(260, None),
    "circle": circle,
    "surrogate text": lambda: os.fsdecode(b"caf\xe9"),
    "surrogate inside": lambda: {"a": [os.fsdecode(b"caf\xe9")]},
    "surrogate key": lambda: {os.fsdecode(b"caf\xe9"): 1},
    "big": lambda: {"n": [2**70, -(2**70), 10**4299]},
    "int keys": lambda: {2.5: "b", None: "c", True: "d", datetime.date(2024, 1, 2): "e", Level.LOW: "f"},
    "none": lambda: [None, "null", 1.5, True],
    "deep": lambda: nested(240, [None, 2**70]),
    "leaves": lambda: [
        datetime.datetime(2024, 1, 2, 3, 4, 5),
        uuid.UUID(int=1),
        Level.LOW,
        Row(1),
        Point(1, 2),
        {3},
        None,
    ],
}


@task
def returns(what: str) -> Any:
    return RESULTS[what]()


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Quits(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class Own(BaseException):
    pass


def chained() -> None:
    try:
        raise KeyError("first")
    except KeyError as e:
        raise ValueError("second") from e


def recurse(n: int = 0) -> int:
    return recurse(n + 1) + 1


def group() -> None:
    raise ExceptionGroup("several went wrong", [ValueError(str(i) * 50) for i in range(40)])


def throw(error: BaseException) -> None:
    raise error


ERRORS: dict[str, Callable[[], Any]] = {
    "surrogate": lambda: throw(ValueError(os.fsdecode(b"caf\xe9"))),
    "long": lambda: throw(ValueError("x" * 200_000)),
    "many lines": lambda: throw(ValueError("first\n" + "line\n" * 100_000)),
    "wide": lambda: throw(ValueError("😀" * 100_000)),
    "controls": lambda: throw(ValueError("\x1b[2J\x00 cleared")),
    "mute": lambda: throw(Mute()),
    "quits": lambda: throw(Quits()),
    "own": lambda: throw(Own("mine")),
    "interrupt": lambda: throw(KeyboardInterrupt()),
    "exit": lambda: sys.exit("out"),
    "chained": chained,
    "recursion": recurse,
    "group": group,
    "syntax": lambda: compile("a b\ud800", "caf\udce9.py", "exec"),
    "decoding": lambda: b"\xff".decode(),
    "cancelled": lambda: throw(asyncio.CancelledError()),
    "not an error": lambda: throw("text"),  # type: ignore[arg-type]
}


@task
def fails(what: str) -> None:
    ERRORS[what]()


class NoText:
    def __str__(self) -> str:
        raise ValueError


@task
def reports(context: Context) -> str:
    anything: Any = context.progress
    for fraction, message in (
        (0.25, "caf\udce9"),
        (math.nan, "nan"),
        ("half", "words"),
        (None, None),
        (10**400, "huge"),
        (0.5, "x" * 1_000_000),
        (0.5, NoText()),
        (0.5, "\x1b[2J"),
        (object(), b"bytes"),
        (math.inf, "over"),
    ):
        anything(fraction, message)
        time.sleep(0.02)  # the socket's room is small
    opened = []
    try:
        while True:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        context.progress(0.5, "no descriptor left")
    for descriptor in opened:
        os.close(descriptor)
    return "told"


_left: set[asyncio.Future[Any]] = set()


async def _forever() -> None:
    await asyncio.Event().wait()


@task
async def awaits(n: int, leave: str = "") -> int:
    loop = asyncio.get_running_loop()
    print(f"loop {id(loop)}")
    if leave == "task":
        _left.add(loop.create_task(_forever()))
    if leave == "thread":
        _left.add(loop.run_in_executor(None, threading.Event().wait))
    if leave == "generator":
        await _first(_endless())
    await asyncio.sleep(0.01)
    return n * 2


async def _endless() -> Any:
    try:
        while True:
            yield 1
    finally:
        await asyncio.sleep(0)
        print("generator closed")


async def _first(numbers: Any) -> int:
    async for n in numbers:
        return int(n)
    return 0


@task
async def awaits_and_fails(context: Context) -> None:
    context.progress(0.5, "on the way")
    await _deep()


async def _deep() -> None:
    raise ValueError("from the depths")


@task
def exact(n: Any) -> Any:
    return {"n": n, "text": str(n), "type": type(n).__name__}


@task
def whole(n: int) -> int:
    return n + 1


NUMPY: dict[str, Callable[[Any], Any]] = {
    "array": lambda np: np.array([[1.5, 2.0], [3.0, 4.0]], dtype="float32"),
    "column": lambda np: {"c": np.array([[1, 2], [3, 4]])[:, 0]},
    "scalars": lambda np: [np.float32(0.1), np.int64(7), np.bool_(True), np.float64(0.5), None],
    "scalar key": lambda np: {np.int64(7): "a"},
    "time": lambda np: [np.datetime64("2024-01-02T03:04:05"), None],
    "nan": lambda np: {"a": [np.array([[1.0, 2.0], [float("nan"), 3.0]])]},
    "column with inf": lambda np: np.array([[1, 2], [float("inf"), 4]])[:, 0],
    "nan scalar": lambda np: [np.float32("nan")],
}


@task
def returns_numpy(what: str) -> Any:
    import numpy

    return NUMPY[what](numpy)
