"""Removes logs of attempts that are older than an installation keeps them, in small steps.

Called by `agents.worker.log_upkeep`, in a thread. Others may be able to write below the results root, so every name is
opened relative to the directory before it, and no symlink is followed: removed are regular files with a log's name in
folders with a task's name, and such folders when they are empty. Several processes may do it at once.
"""

import contextlib
import errno
import os
import random
import re
import stat
from collections.abc import Generator, Iterator
from pathlib import Path

from headrace.process.throttled_log import log_throttled

from .attempt_log import FOLDER, PART
from .safe_open import open_directory_below

_PREFIX = re.compile(r"[0-9a-f]{2}")
_TASK = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LOG = re.compile(r"[1-9][0-9]*\.log")
_NOT_EMPTY_OR_GONE = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT)


def remove_old_logs(results_root: Path, before: float) -> Generator[bool]:
    """Removes the logs that were last written before `before`, in seconds since 1970; an iteration is one step.

    A step looks at one file or at one folder, and is True when it removed a file. It is closed when it is not iterated
    to its end. Nothing is raised: what cannot be read or removed is logged and passed over.
    """
    return _going_on(_remove_below(results_root, before), FOLDER)


def _remove_below(results_root: Path, before: float) -> Generator[bool]:
    root = os.open(results_root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _opened(root, FOLDER) as folder:
            prefixes = [name for name in os.listdir(folder) if _PREFIX.fullmatch(name)]
            random.shuffle(prefixes)  # processes that share the root begin at different tasks
            for prefix in prefixes:
                yield from _going_on(_remove_in_prefix(folder, prefix, before), f"{FOLDER}/{prefix}")
    finally:
        os.close(root)


def _remove_in_prefix(logs: int, prefix: str, before: float) -> Generator[bool]:
    with _opened(logs, prefix) as folder, os.scandir(folder) as tasks:  # no list of them: there may be millions
        for task in tasks:
            yield False
            if _TASK.fullmatch(task.name):
                yield from _going_on(_remove_in_task(folder, task.name, before), f"{FOLDER}/{prefix}/{task.name}")


def _remove_in_task(prefix: int, task_id: str, before: float) -> Generator[bool]:
    has_removed = False
    with _opened(prefix, task_id) as folder:
        with os.scandir(folder) as files:
            for file in files:
                is_log = _LOG.fullmatch(file.name) is not None or file.name.endswith(PART)
                removed = is_log and _remove_file(folder, file.name, before)
                has_removed |= removed
                yield removed
        # An empty one that is young may be that of a node which is about to write into it.
        if has_removed or os.fstat(folder).st_mtime < before:
            _remove_empty(prefix, task_id)


def _remove_file(folder: int, name: str, before: float) -> bool:
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISREG(found.st_mode) and found.st_mtime < before:
            os.unlink(name, dir_fd=folder)
            return True
    return False


def _remove_empty(parent: int, name: str) -> None:
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as e:
        if e.errno not in _NOT_EMPTY_OR_GONE:
            raise


@contextlib.contextmanager
def _opened(parent: int, name: str) -> Iterator[int]:
    fd = open_directory_below(parent, [name])
    try:
        yield fd
    finally:
        os.close(fd)


def _going_on(steps: Generator[bool], what: str) -> Generator[bool]:
    """The steps until one fails."""
    try:
        yield from steps
    except FileNotFoundError:
        pass  # nothing was printed yet, or another process was faster
    except OSError as e:
        log_throttled("old logs", "Old logs in %s below the results root are not removed: %s", what, e.strerror or e)
