"""Loads a file with task kinds as a module under its own name, so that processes which a kind starts can import it.

Called by `headrace.kind_imports`. multiprocessing and joblib send a function to a new process by its module's name:
`kinds.py` is the module `kinds` there, found on the path of its folder. UsageError for what is no Python file.
"""

import hashlib
import importlib.machinery
import importlib.util
import sys
from pathlib import Path

from headrace.errors import UsageError

_notes: list[str] = []


def import_file(path: Path) -> None:
    """Imports the file, and puts its folder last on the module path: what lies there hides no other module."""
    if not path.is_file():
        raise UsageError(f"HEADRACE_TASKS: no file {path} (looked for in {Path.cwd()})")
    path = path.resolve()
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(_module_name(path), path)
    if spec is None or spec.loader is None:
        raise UsageError(f"HEADRACE_TASKS: {path} is no Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pickling and type hints look modules up by name
    spec.loader.exec_module(module)


def loading_notes() -> list[str]:
    """What the person who runs the node should know about the files that have been loaded."""
    return _notes


def _module_name(path: Path) -> str:
    taken_by = _other_module(path)
    if taken_by is None:
        return path.stem
    _notes.append(
        f"HEADRACE_TASKS: {path} cannot be imported as {path.stem!r}, because {taken_by} has that name: processes "
        "started by its kinds with multiprocessing's spawn or forkserver find none of its functions. Rename the file"
    )
    return f"headrace_tasks_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def _other_module(path: Path) -> str | None:
    """What `import <stem>` would find instead of the file; None when it would find the file."""
    name = path.stem
    if "." in name:
        return "a module in a package"
    if name in sys.builtin_module_names or name in sys.stdlib_module_names:
        return "Python's own module"
    if (loaded := sys.modules.get(name)) is not None:
        file = getattr(loaded, "__file__", None) or "a loaded module"
        return None if file == str(path) else file
    try:
        found = importlib.machinery.PathFinder.find_spec(name)
    except (ImportError, ValueError):
        return None
    if found is None:
        return None
    origin = found.origin or ", ".join(found.submodule_search_locations or ())
    return None if origin and Path(origin).resolve() == path else origin or "another module"
