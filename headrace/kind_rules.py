"""What a function and its limits must be to make a task kind. Called by `@task`.

UsageError names the kind, what is wrong, and the file and line of the function.
"""

import functools
import inspect
import math
import re
from collections.abc import Callable
from types import CodeType
from typing import Any

from headrace.contract.submission import MAX_NAME_CHARACTERS
from headrace.errors import UsageError

MAX_ATTEMPTS = 100  # as a submission may ask for

_CONTENT_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+( *; *[\w-]+=[\w.+:\"-]+)*", re.ASCII)


def check_function(function: Any, name: str | None) -> str:
    """The kind's name, for a function that can be one; UsageError for anything else."""
    if isinstance(function, str):
        raise UsageError(f"@task({function!r}){place_of(function)}: give the name as @task(name={function!r})")
    kind_name = name if name is not None else getattr(function, "__name__", type(function).__name__)
    if what := _not_a_function(function):
        raise UsageError(
            f"@task {kind_name}{place_of(function)}: {what} cannot be a task kind: decorate a function that is defined "
            "with `def` or `async def`"
        )
    if not isinstance(kind_name, str) or not kind_name or len(kind_name) > MAX_NAME_CHARACTERS:
        raise UsageError(
            f"@task {str(kind_name)[:40]}{place_of(function)}: the name must be text of 1 to {MAX_NAME_CHARACTERS} "
            "characters"
        )
    if not kind_name.isprintable():
        raise UsageError(f"@task {kind_name!a}{place_of(function)}: the name must consist of printable characters")
    return kind_name


def check_limits(
    where: str, timeout_s: object, max_attempts: object, memory_mb: object, suffix: str | None, content_type: str | None
) -> None:
    """`where` is the kind's name and place, for the UsageError."""
    if not _is_number(timeout_s) or not 0 < timeout_s < math.inf:  # type: ignore[operator]  # a number
        raise UsageError(f"@task {where}: timeout_s must be a number of seconds above 0, not {timeout_s!r}")
    if not _is_whole(max_attempts) or not 1 <= max_attempts <= MAX_ATTEMPTS:  # type: ignore[operator]  # a number
        raise UsageError(f"@task {where}: max_attempts must be a whole number from 1 to {MAX_ATTEMPTS}")
    if memory_mb is not None and (not _is_whole(memory_mb) or memory_mb < 16):  # type: ignore[operator]  # a number
        raise UsageError(f"@task {where}: memory_mb must be a whole number of MiB, at least 16")
    if suffix is not None and not is_valid_suffix(suffix):
        raise UsageError(f"@task {where}: suffix {suffix!r} must be a dot and 1 to 16 letters or digits, such as .csv")
    if content_type is not None and not _CONTENT_TYPE.fullmatch(content_type):
        raise UsageError(f"@task {where}: content_type {content_type!r} must be a media type, such as text/csv")


def is_valid_suffix(suffix: str) -> bool:
    """Whether it is one or two times a dot and 1 to 16 ASCII letters or digits (`.csv`, `.tar.gz`)."""
    parts = suffix.split(".")
    return (
        len(parts) in (2, 3) and parts[0] == "" and all(p.isascii() and p.isalnum() and len(p) <= 16 for p in parts[1:])
    )


def code_of(function: Any) -> CodeType | None:
    """The code of a function below its decorators; None where there is none, as in a compiled module."""
    try:
        return getattr(inspect.unwrap(function), "__code__", None)
    except ValueError:  # it wraps itself
        return None


def place_of(function: Any) -> str:
    """` (file:line)` of the function, or of the line that decorates it; "" where neither is known."""
    code = code_of(function)
    if code is not None:
        return f" ({code.co_filename}:{code.co_firstlineno})"
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__") in (__name__, "headrace.kinds"):
        frame = frame.f_back
    return f" ({frame.f_code.co_filename}:{frame.f_lineno})" if frame is not None else ""


def _not_a_function(function: Any) -> str:
    """What it is instead, in words; "" for a function."""
    target = _unwrapped(function)
    if isinstance(target, functools.partial | functools.partialmethod):
        return "a functools.partial"
    if inspect.isclass(target):
        return "a class"
    if inspect.ismethod(target) or isinstance(target, staticmethod | classmethod | property):
        return "a method"
    if not callable(target) or not hasattr(target, "__name__"):
        return f"an object of type {type(target).__name__}"
    if target.__name__ == "<lambda>":
        return "a lambda"
    if inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
        return "a generator function (it has a `yield`)"
    return "a method" if _is_in_class_body(target) else ""


def _unwrapped(function: Any) -> Any:
    try:
        return inspect.unwrap(function) if callable(function) else function
    except ValueError:
        return function


def _is_in_class_body(function: Callable[..., Any]) -> bool:
    around = getattr(function, "__qualname__", "").rpartition(".")[0]
    return bool(around) and not around.endswith("<locals>")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
