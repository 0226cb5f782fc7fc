"""Results before they are in their place: files in a folder of the process's own, written, then made durable together.

Used by the result store. OSError = the disk does not take the bytes now; a part is then as it was before.
"""

import ctypes
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

# From here on one syncfs is cheaper than a sync of each file (measured: 256 files 10,000 to 20,000 a second against
# 2,400 to 6,900 in four threads). It also waits for what others have written to that filesystem: not worth it for few.
_TOGETHER = 12


class PartialFile:
    """A result that comes piece by piece: appended to in constant memory, then stored or dropped.

    Open only while it is written to: any number of parts may be unfinished at once.
    """

    def __init__(self, name: str, folder: int) -> None:
        """Makes the file `name` in the directory with descriptor `folder`."""
        self.name = name
        self.size = 0  # bytes
        self._folder = folder
        self._digest = hashlib.sha256()
        os.close(self._open(os.O_CREAT | os.O_EXCL))

    def append(self, data: bytes) -> None:
        """Writes it all, or leaves the part as it was and raises OSError."""
        fd = self._open()
        try:
            os.lseek(fd, self.size, os.SEEK_SET)
            _write_all(fd, data)
        except OSError:
            os.ftruncate(fd, self.size)
            raise
        finally:
            os.close(fd)
        self._digest.update(data)
        self.size += len(data)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def sync(self) -> None:
        fd = self._open()
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _open(self, flags: int = 0) -> int:
        return os.open(self.name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o644, dir_fd=self._folder)


def sync_parts(parts: Sequence[PartialFile], folder: int, pool: ThreadPoolExecutor) -> None:
    """Makes the parts durable: a few one by one in the pool's threads, many at once through their filesystem.

    `folder` is a descriptor on that filesystem that has been open since before they were written, so that the kernel
    tells it of every write that failed since.
    """
    if len(parts) >= _TOGETHER and _syncfs(folder):
        return
    if len(parts) == 1:
        parts[0].sync()
        return
    errors = [e for e in [f.exception() for f in [pool.submit(p.sync) for p in parts]] if e is not None]
    if errors:
        raise errors[0]


def _syncfs(folder: int) -> bool:
    """False where there is no syncfs (it is Linux's)."""
    syncfs = getattr(_libc, "syncfs", None)
    if syncfs is None:
        return False
    if syncfs(folder) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return True


_libc = ctypes.CDLL(None, use_errno=True)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
