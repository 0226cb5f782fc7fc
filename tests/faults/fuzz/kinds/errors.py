"""Errors as tasks raise them, most of them hard to put into words. Loaded in children alone, as a file."""

import asyncio
import os

from headrace import task


class _Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class _WithName(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no name")


class _Nameless(Exception, metaclass=_WithName):
    pass


class _Own(BaseException):
    pass


class _NotText(Exception):
    def __str__(self) -> str:
        return 3  # type: ignore[return-value]


class _OwnText(str):
    def __str__(self) -> str:
        return self


def _chain(length: int) -> Exception:
    error: Exception = ValueError("the first")
    for n in range(length):
        after = ValueError(f"number {n}")
        after.__cause__ = error
        error = after
    return error


def _recurse() -> None:
    _recurse()


def _loop() -> Exception:
    one, other = ValueError("one"), ValueError("other")
    one.__context__, other.__context__ = other, one
    return one


def _noted() -> Exception:
    error = ValueError("with notes")
    error.add_note("\udce9" * 1000)
    error.__notes__.append(3)  # type: ignore[arg-type]
    return error


@task(timeout_s=60)
def raises(what: str) -> None:
    if what == "recursion":
        _recurse()
    if what == "syntax":
        compile("a b", "\udce9.py", "exec")
    if what == "in a new context":
        raise ValueError("the second") from None
    raise {
        "plain": lambda: ValueError("plain"),
        "surrogates": lambda: ValueError(os.fsdecode(b"caf\xe9")),
        "long": lambda: ValueError("x" * 300_000),
        "long lines": lambda: ValueError("\n".join(["y" * 10_000] * 50)),
        "many lines": lambda: ValueError("\n" * 100_000),
        "control": lambda: ValueError("\x00\x1b[31m\r\x07\u2028\ufffe"),
        "unprintable": _Unprintable,
        "nameless": _Nameless,
        "not text": _NotText,
        "own text": lambda: ValueError(_OwnText("own")),
        "own": lambda: _Own("own"),
        "group": lambda: ExceptionGroup("g", [ExceptionGroup("h", [ValueError(str(n))]) for n in range(50)]),
        "deep group": lambda: _deep_group(300),
        "chain": lambda: _chain(500),
        "loop": _loop,
        "notes": _noted,
        "interrupt": KeyboardInterrupt,
        "exit": lambda: SystemExit("bye"),
        "stop": StopIteration,
        "async stop": lambda: StopAsyncIteration(1),
        "generator": GeneratorExit,
        "cancelled": asyncio.CancelledError,
        "decode": lambda: UnicodeDecodeError("utf-8", b"x" * 1_000_000, 1, 2, "\udce9"),
        "os": lambda: OSError(2, "\udce9", "\udce9"),
        "arguments": lambda: ValueError(object(), [1] * 100_000),
        "timeout": TimeoutError,
        "broken pipe": BrokenPipeError,
        "no memory": lambda: RuntimeError("MemoryError"),
    }[what]()


def _deep_group(depth: int) -> BaseException:
    error: Exception = ValueError("inside")
    for n in range(depth):
        error = ExceptionGroup(str(n), [error])
    return error
