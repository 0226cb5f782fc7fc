"""Imports the user's modules and files with task kinds. Called by `headrace.kinds`.

UsageError names the user's file and line, and says what to install where a package is missing.
"""

import importlib
import os
import sys
import sysconfig
import traceback
from pathlib import Path
from types import TracebackType

import headrace.kind_files
from headrace.contract.printable import printable
from headrace.errors import UsageError
from headrace.kind_files import import_file

_OURS = (__file__, headrace.kind_files.__file__)
_MAX_CHARACTERS = 1000  # of an error's own text


def import_kinds(item: str) -> None:
    """Imports one item of HEADRACE_TASKS: a module, or a file ending in .py. UsageError when that fails."""
    try:
        if item.endswith(".py") or "/" in item:
            import_file(Path(item))
        else:
            importlib.import_module(item)
    except UsageError:
        raise
    except (Exception, SystemExit) as e:
        raise UsageError(f"HEADRACE_TASKS: {item} cannot be imported: {_explain(e, item)}") from e


def too_slow_import(limit_s: float) -> str:
    """What to say when importing the kinds took longer than HEADRACE_IMPORT_S."""
    return (
        f"importing the task kinds takes more than {limit_s:g} s: raise HEADRACE_IMPORT_S, or import slow packages "
        "inside the functions that need them"
    )


def _explain(error: BaseException, item: str) -> str:
    """The error's type and text, the user's file and line, and what helps."""
    place = _place(error)
    if isinstance(error, ModuleNotFoundError) and error.name and f"{item}.".startswith(f"{error.name}.") and not place:
        return (
            f"there is no module {error.name!r} in {sys.path[0] or os.getcwd()} or among this interpreter's packages: "
            "give a module that can be imported there, or a file ending in .py"
        )
    said = _text(error)
    if isinstance(error, SystemExit):
        said = f"it calls sys.exit ({said})"
    return f"{said}{place}{_advice(error)}"


def _text(error: BaseException) -> str:
    try:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
    except Exception:  # noqa: BLE001 - a person's own error may raise anything
        text = ""
    name = type(error).__name__
    return printable(f"{name}: {text}" if text else name, _MAX_CHARACTERS)


def _advice(error: BaseException) -> str:
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    top = error.name.partition(".")[0]
    if top in sys.stdlib_module_names:
        return ""
    if top in sys.modules:
        return f". The installed {top} has no such module: is it the version that you need?"
    return f". If it is a package, install it for this interpreter: {sys.executable} -m pip install {top}"


def _place(error: BaseException) -> str:
    """` (file, line n)` of the last frame in the user's own code, else in a package; "" where there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({printable(error.filename)}, line {error.lineno})"
    own, installed = "", ""
    for file, line in _frames(error.__traceback__):
        place = f" ({printable(file)}, line {line})"
        if file.startswith(_paths("purelib", "platlib")):
            installed = place
        elif not file.startswith(_paths("stdlib", "platstdlib")):
            own = place
    return own or installed


def _frames(at: TracebackType | None) -> list[tuple[str, int]]:
    """File and line of each frame that is not the import machinery's or this module's."""
    frames = [(f.f_code.co_filename, line) for f, line in traceback.walk_tb(at)]
    return [(file, line) for file, line in frames if file not in _OURS and not file.startswith("<")]


def _paths(*names: str) -> tuple[str, ...]:
    return tuple(sysconfig.get_paths()[name] + os.sep for name in names)
