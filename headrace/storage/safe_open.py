"""Opens files and directories below a root without following symlinks: results, and logs of attempts.

Used by the storekeeper, the worker's pool and the gateway. A path is opened one segment after another, each relative to
the descriptor of the one before. Whatever a record, a request or the file system says, nothing outside the root is
read or written. Callers check beforehand that each segment and name is a single path component.
"""

import errno
import os
import stat
from collections.abc import Sequence

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_directory_below(
    root: int, segments: Sequence[str], *, make_mode: int | None = None, durable: bool = False
) -> int:
    """A new descriptor of the directory that `segments` lead to from the directory descriptor `root`.

    `make_mode`: permissions of missing directories, which are then made; None = they are not made. `durable` syncs the
    parent of each directory that was made. OSError when a segment is missing, is a symlink (ELOOP), or is not a
    directory (ENOTDIR); its `filename` is then the path below the root up to that segment.
    """
    parent = os.dup(root)
    for depth, segment in enumerate(segments, 1):
        try:
            child = _open_directory(parent, segment, make_mode, durable)
        except OSError as e:
            e.filename = "/".join(segments[:depth])
            raise
        finally:
            os.close(parent)
        parent = child
    return parent


def open_file_below(root: int, segments: Sequence[str], name: str) -> int:
    """A descriptor, for reading, of the regular file `name` in the directory that `segments` lead to from `root`.

    OSError when there is no such file, or a symlink or anything else in its place.
    """
    directory = open_directory_below(root, segments)
    try:
        # O_NONBLOCK: a FIFO of that name must not block the caller.
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    finally:
        os.close(directory)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileNotFoundError(f"{name} is not a regular file")
    return fd


def _open_directory(parent: int, name: str, make_mode: int | None, durable: bool) -> int:
    try:
        return _open_present(parent, name)
    except FileNotFoundError:
        if make_mode is None:
            raise
    try:
        os.mkdir(name, make_mode, dir_fd=parent)
        if durable:
            os.fsync(parent)
    except FileExistsError:
        pass  # another thread or process was faster
    return _open_present(parent, name)


def _open_present(parent: int, name: str) -> int:
    """Linux says "not a directory" of a symlink as well; people look for a file then, and see a directory."""
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except NotADirectoryError:
        if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, "it is a symlink", name) from None
        raise
