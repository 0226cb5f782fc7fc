"""Stores what attempts print: the node writes a log after each attempt, the gateway reads it.

`<results root>/.logs/<first two digits of the id>/<id>/<attempt>.log` holds the last LOG_BYTES of it. There is no file
when nothing was printed, and none any more after HEADRACE_LOG_DAYS (`old_logs.py`). Of two copies of a task (one id in
two partitions) the one that ends last has the file. A submission's directory never starts with a dot, so results and
logs cannot collide. A node that does not share the results root stores its logs locally, where the gateway cannot find
them.
"""

import contextlib
import os
import time
import uuid
from pathlib import Path

from headrace.storage.safe_open import open_directory_below

LOG_BYTES = 256 * 1024
FOLDER = ".logs"  # below the results root
PART = ".part"  # ends the names of logs that are being written
_LEFT_OVER_S = 3600.0  # nobody writes one log for so long
_TRIES = 3  # when the folder of the task is removed at the same time, as it has only old logs


def log_path(task_id: str, attempt: int) -> Path:
    """The path of an attempt's log, relative to the results root. The caller has checked that `task_id` is a UUID."""
    return Path(FOLDER, task_id[:2], task_id, f"{attempt}.log")


def log_file(results_root: Path, task_id: str, attempt: int) -> Path:
    """The path of an attempt's log below `results_root`."""
    return results_root / log_path(task_id, attempt)


def keep_log(results_root: Path, task_id: str, attempt: int, printed: bytes) -> None:
    """Writes an attempt's log, whole or not at all. OSError when the disk is full or the root is gone.

    Others may be able to write in the results root and must not lead the node outside it: a symlink on the way is an
    OSError as well.
    """
    *folders, name = log_path(task_id, attempt).parts
    root = os.open(results_root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for tries_left in reversed(range(_TRIES)):
            try:
                return _keep_below(root, folders, name, printed[-LOG_BYTES:])
            except FileNotFoundError:
                if not tries_left:
                    raise
    finally:
        os.close(root)


def _keep_below(root: int, folders: list[str], name: str, data: bytes) -> None:
    folder = open_directory_below(root, folders, make_mode=0o777)
    try:
        _replace_file(folder, name, data)
    finally:
        os.close(folder)


def _replace_file(folder: int, name: str, data: bytes) -> None:
    # A name of its own: two copies of a task, on two nodes, may end the same attempt at the same time.
    part = f"{name}.{uuid.uuid4().hex}{PART}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(part, flags, 0o644, dir_fd=folder), "wb") as f:
            f.write(data)
        os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(part, dir_fd=folder)
        raise
    _remove_left_over(folder)


def _remove_left_over(folder: int) -> None:
    """Removes what nodes that were killed have left half-written, or somebody else has planted."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if not name.endswith(PART):
                continue
            if time.time() - os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime > _LEFT_OVER_S:
                os.unlink(name, dir_fd=folder)
