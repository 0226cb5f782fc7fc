"""Opens what is stored below the results root: for results and for attempts' logs.

One component after another from the root's descriptor, without following a link: whatever a record, a request or the
file system says, nothing outside the root is read.
"""

import os
import stat
from collections.abc import Sequence


def open_below(root: int, segments: Sequence[str], name: str) -> int:
    """A descriptor of the regular file `name` in the directory that the segments lead to; OSError if there is none.

    Segments and name must be checked by the caller to be single components.
    """
    at = os.dup(root)
    try:
        for segment in segments:
            deeper = os.open(segment, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = deeper
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    finally:
        os.close(at)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileNotFoundError(f"{name} is no regular file")
    return fd
