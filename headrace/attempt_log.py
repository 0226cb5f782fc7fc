"""Where what an attempt has printed is kept: written by the node after the attempt, read by the gateway.

`<results root>/.logs/<first two digits of the id>/<id>/<attempt>.log`, the last LOG_BYTES of it, made only when
something was printed. No directory of a submission starts with a dot, so results and logs never meet. A node that does
not share the results root keeps its logs where it is, and the gateway has none to show.
"""

import os
from pathlib import Path

LOG_BYTES = 256 * 1024


def log_place(task_id: str, attempt: int) -> Path:
    """The place of an attempt's log, relative to the results root. `task_id` must have been checked to be a UUID."""
    return Path(".logs", task_id[:2], task_id, f"{attempt}.log")


def log_file(results_root: Path, task_id: str, attempt: int) -> Path:
    """The same below a root."""
    return results_root / log_place(task_id, attempt)


def keep_log(results_root: Path, task_id: str, attempt: int, printed: bytes) -> None:
    """Writes an attempt's log, whole or not at all; OSError when the disk will not have it, or the root is gone."""
    if not results_root.is_dir():
        raise FileNotFoundError(f"there is no directory {results_root}")
    file = log_file(results_root, task_id, attempt)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_bytes(printed[-LOG_BYTES:])
    os.replace(part, file)
