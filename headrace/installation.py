"""Where Headrace's parts are on this machine, and whether the packages that they need are there.

A wheel has the roles' packages below `headrace` (`headrace.agents`), so that nothing of ours can hide a package of the
user's. A checkout, also one installed as editable, has them beside it (`agents`), and there a user's package may have
the same name: roles look in the tree first, task kinds last. Called by the command line and by whatever starts one of
our modules by its name. UsageError names the extra to install for a package that is missing.
"""

import importlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from headrace.errors import UsageError

_PACKAGE = Path(__file__).resolve().parent
_OF_EXTRA = re.compile(r"([\w.-]+)[^;]*;.*\bextra == ['\"]([\w-]+)")  # a line of our metadata: package, extra


def checkout() -> Path | None:
    """The root of the source tree that runs here; None for a wheel."""
    return None if (_PACKAGE / "agents").is_dir() else _PACKAGE.parent


def module_name(name: str) -> str:
    """What a module of a part is called here: `agents.worker.main` or `headrace.agents.worker.main`."""
    return name if checkout() else f"headrace.{name}"


def part_folder(name: str) -> Path:
    """The folder of a part, such as `examples`."""
    return (checkout() or _PACKAGE) / name


def load_part(name: str) -> ModuleType:
    """Imports a module of a part, named as in a checkout.

    In a checkout the tree becomes the first place to look for all modules of this process: a package of the environment
    named `agents` would hide ours.
    """
    if tree := checkout():
        sys.path[:] = [str(tree), *(p for p in sys.path if p != str(tree))]
    return importlib.import_module(module_name(name))


def path_for_kinds(first: str, path: Sequence[str]) -> list[str]:
    """`path` as task kinds need it: the user's directory first, and a checkout's tree last.

    The tree stays in it because a process that a kind starts may import `headrace`. Relative entries are left out.
    """
    tree = checkout()
    found = [first, *(p for p in path if p and p != first)]
    ours = [p for p in found if tree is not None and os.path.realpath(p) == str(tree)]
    return [p for p in found if p not in ours] + ours[:1]


def missing_packages(extra: str) -> list[str]:
    """The distributions that the extra asks for and this environment lacks, sorted.

    Empty where Headrace itself is not an installed distribution, which then says nothing of what it needs.
    """
    return sorted({name for name in _required(extra) if not _is_installed(name)})


def check_extras(what: str, extras: Sequence[str], install: str = "") -> None:
    """Raises UsageError when `what` lacks packages of one of the extras; it says to install the extra `install`.

    Without `install` it names the extras that lack something.
    """
    wanted = {extra: missing for extra in extras if (missing := missing_packages(extra))}
    if wanted:
        names = ", ".join(sorted({name for missing in wanted.values() for name in missing}))
        raise UsageError(
            f"{what} needs packages that are not installed ({names}): "
            f"pip install 'headrace[{install or ','.join(sorted(wanted))}]'"
        )


def _required(extra: str) -> list[str]:
    from importlib import metadata  # costs 20 ms, which a child need not pay

    try:
        requirements = metadata.requires("headrace") or []
    except metadata.PackageNotFoundError:
        return []
    return [match[1] for match in filter(None, map(_OF_EXTRA.match, requirements)) if match[2] == extra]


def _is_installed(distribution: str) -> bool:
    from importlib import metadata

    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
