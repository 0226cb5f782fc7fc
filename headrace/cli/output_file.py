"""Writes a file whole or not at all, for `headrace result -o`.

UsageError when the path cannot be written, HeadraceError when the disk is full. An existing file keeps its content
until the new one is complete; a device or pipe is written to directly.
"""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from headrace.errors import HeadraceError, UsageError


def write_file(path: Path, pieces: Iterable[bytes]) -> None:
    """Writes the pieces in order. What `pieces` raises leaves no file behind."""
    target = path.resolve()  # a link stays a link
    if target.exists() and not target.is_file():
        with _errors(path), target.open("wb") as out:
            out.writelines(pieces)
        return
    with _errors(path):
        fd, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.")
    try:
        with _errors(path):
            with os.fdopen(fd, "wb") as out:
                out.writelines(pieces)
            os.chmod(name, _mode(target))
            os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _mode(target: Path) -> int:
    """The mode of the present file, else that of a new one."""
    if target.exists():
        return target.stat().st_mode & 0o7777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise HeadraceError(f"{path} cannot be written ({e.strerror}): make room, or give another path") from None
        raise UsageError(
            f"{path} cannot be written ({e.strerror}): give a path in a directory that exists and is writable"
        ) from None
