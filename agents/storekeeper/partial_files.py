"""Results that are not in their directory yet: files in a folder of this process, written and then synced together.

Used by the result store. OSError = the disk does not take the bytes now; the partial file is then as it was before.
"""

import ctypes
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

# From this number on one syncfs is cheaper than an fsync of each file (measured: 256 files, 10,000 to 20,000 a second
# against 2,400 to 6,900 in four threads). syncfs also waits for other writes to the filesystem: too slow for few files.
_TOGETHER = 12


class PartialFile:
    """A result that is written piece by piece, in constant memory, and then stored or dropped.

    It is open only while it is written to, so there may be any number of them.
    """

    def __init__(self, name: str, folder: int) -> None:
        """Creates the file `name` in the directory with the descriptor `folder`."""
        self.name = name
        self.size = 0  # bytes
        self._folder = folder
        self._digest = hashlib.sha256()
        os.close(self._open(os.O_CREAT | os.O_EXCL))

    def append(self, data: bytes) -> None:
        """Writes all of `data`, or leaves the file as it was and raises OSError."""
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
        """Hex digest of everything appended."""
        return self._digest.hexdigest()

    def sync(self) -> None:
        fd = self._open()
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _open(self, flags: int = 0) -> int:
        return os.open(self.name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o644, dir_fd=self._folder)


def sync_partial_files(parts: Sequence[PartialFile], folder: int, pool: ThreadPoolExecutor) -> None:
    """Makes the files durable: a few one by one in the pool's threads, many at once with syncfs.

    `folder`: a descriptor on their filesystem that was opened before they were written, so that the kernel reports
    through it every write that failed since.
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
    """False where the system has no syncfs, which is Linux's."""
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
