"""Files as results. Loaded in children alone, as a file."""

import os
from pathlib import Path

from headrace import Context, task

CONTENT = b"a,b\n1,2\n"


@task(timeout_s=60)
def returns_path(context: Context, name: str, how: str) -> Path:
    """A file with that name; `how` says where, or what is wrong with it."""
    path = Path(name) if how == "relative" else context.scratch / name
    target = context.scratch / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if how == "missing":
        return path
    if how == "directory":
        target.mkdir()
    elif how == "link out":
        target.symlink_to("/etc/passwd")
    elif how == "outside":
        return Path("/etc/passwd")
    elif how == "pipe":
        os.mkfifo(target)
    else:
        target.write_bytes(CONTENT)
    return path
