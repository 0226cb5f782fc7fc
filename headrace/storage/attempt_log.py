"""Where what an attempt has printed is kept: written by the node after the attempt, read by the gateway.

`<results root>/.logs/<first two digits of the id>/<id>/<attempt>.log`, the last LOG_BYTES of it, made only when
something was printed. No directory of a submission starts with a dot, so results and logs never meet. A node that does
not share the results root keeps its logs where it is, and the gateway has none to show.
"""

import contextlib
import os
from pathlib import Path

LOG_BYTES = 256 * 1024
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def log_place(task_id: str, attempt: int) -> Path:
    """The place of an attempt's log, relative to the results root. `task_id` must have been checked to be a UUID."""
    return Path(".logs", task_id[:2], task_id, f"{attempt}.log")


def log_file(results_root: Path, task_id: str, attempt: int) -> Path:
    """The same below a root."""
    return results_root / log_place(task_id, attempt)


def keep_log(results_root: Path, task_id: str, attempt: int, printed: bytes) -> None:
    """Writes an attempt's log, whole or not at all; OSError when the disk will not have it, or the root is gone.

    Whoever may write in the results root must not lead the node elsewhere: a link on the way is an OSError.
    """
    *folders, name = log_place(task_id, attempt).parts
    at = os.open(results_root, _DIRECTORY)
    try:
        for folder in folders:
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, dir_fd=at)
            deeper = os.open(folder, _DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = deeper
        part = f"{name}.part"
        with contextlib.suppress(FileNotFoundError):  # of a node that was killed, or nothing of ours at all
            os.unlink(part, dir_fd=at)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=at), "wb") as f:
            f.write(printed[-LOG_BYTES:])
        os.replace(part, name, src_dir_fd=at, dst_dir_fd=at)
    finally:
        os.close(at)
