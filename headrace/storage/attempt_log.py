"""Stores what attempts print: the node writes a log after each attempt, the gateway reads it.

`<results root>/.logs/<first two digits of the id>/<id>/<attempt>.log` holds the last LOG_BYTES of it. There is no file
when nothing was printed. A submission's directory never starts with a dot, so results and logs cannot collide. A node
that does not share the results root stores its logs locally, where the gateway cannot find them.
"""

import contextlib
import os
from pathlib import Path

from headrace.storage.safe_open import open_directory_below

LOG_BYTES = 256 * 1024


def log_path(task_id: str, attempt: int) -> Path:
    """The path of an attempt's log, relative to the results root. The caller has checked that `task_id` is a UUID."""
    return Path(".logs", task_id[:2], task_id, f"{attempt}.log")


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
        folder = open_directory_below(root, folders, make_mode=0o777)
    finally:
        os.close(root)
    try:
        _replace_file(folder, name, printed[-LOG_BYTES:])
    finally:
        os.close(folder)


def _replace_file(folder: int, name: str, data: bytes) -> None:
    part = f"{name}.part"
    with contextlib.suppress(FileNotFoundError):  # left by a node that was killed, or planted by somebody else
        os.unlink(part, dir_fd=folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(part, flags, 0o644, dir_fd=folder), "wb") as f:
        f.write(data)
    os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
