"""Stores results as files: whole or not at all, durable before their event is sent, never outside the results root.

Used by the storekeeper, in its one working thread. A result is written in a private folder of this process below the
root, synced, and renamed into its directory, which is opened without following symlinks (`headrace.storage.safe_open`).
`Blocked` = the file can never be stored there; OSError = not now (disk full, root gone).
"""

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from headrace.contract.directory import check_directory
from headrace.contract.ids import id_of_key
from headrace.errors import Invalid, Permanent
from headrace.kind_rules import is_valid_suffix
from headrace.storage.results_root import PRIVATE, ResultsRoot, stat_open
from headrace.storage.safe_open import open_directory_below

from .partial_files import PartialFile, sync_partial_files

_LOCK = "lock"
_SYNCERS = 4  # more made it slower
_DIRECTORY_MODE = 0o755
# Errors that last until a person acts: something else has that name, or the storekeeper has no right to it.
_BLOCKED = frozenset(
    {
        errno.ENOTDIR,
        errno.ELOOP,
        errno.EISDIR,
        errno.ENOTEMPTY,
        errno.EEXIST,
        errno.ENAMETOOLONG,
        errno.EXDEV,
        errno.EACCES,
        errno.EPERM,
        errno.EMLINK,
    }
)


class Blocked(Permanent):
    """The result cannot be stored where its task wanted it; the message says why."""


class RootExchanged(Exception):
    """The results root was away and is back without this process's folder: what is not committed must be done again."""


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A result that is on disk, durable. `file` is relative to the root."""

    file: str
    size: int  # bytes
    sha256: str  # hex


class ResultStore:
    """Stores results below one root. Call `open` first; `close` removes unfinished results."""

    def __init__(self, root: ResultsRoot) -> None:
        self._root = root
        self._token = str(uuid.uuid4())
        self._own = -1  # descriptor of this process's private folder
        self._lock = -1
        self._syncers = ThreadPoolExecutor(_SYNCERS, "result-sync")

    def open(self) -> None:
        """Makes the process's private folder and removes those of dead processes. OSError when that fails."""
        private = open_directory_below(self._root.fd, [PRIVATE], make_mode=_DIRECTORY_MODE, durable=True)
        try:
            fcntl.flock(private, fcntl.LOCK_EX)  # one process at a time: a folder that was just made is not locked yet
            os.mkdir(self._token, 0o700, dir_fd=private)
            self._own = open_directory_below(private, [self._token])
            self._lock = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=self._own)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            for name in os.listdir(private):
                if name != self._token:
                    _remove_if_dead(private, name)
        finally:
            os.close(private)

    def check(self) -> str | None:
        """None while the root is there, else the reason in words. RootExchanged when it was away and is back."""
        reason = self._root.check()
        if reason is None:
            own = stat_open(self._own)
            if self._root.openings > 1 or own is None or not own.st_nlink:
                raise RootExchanged
        return reason

    def close(self) -> None:
        """Removes the process's private folder with everything in it."""
        self._syncers.shutdown()
        if self._own < 0:
            return
        try:
            private = open_directory_below(self._root.fd, [PRIVATE])
        except OSError:
            pass  # the root is gone, and the folder with it
        else:
            shutil.rmtree(self._token, ignore_errors=True, dir_fd=private)
            os.close(private)
        for fd in (self._own, self._lock):
            if fd >= 0:
                os.close(fd)
        self._own = self._lock = -1

    def new_part(self) -> PartialFile:
        """A new, empty partial file in the private folder."""
        return PartialFile(str(uuid.uuid4()), self._own)

    def drop_part(self, part: PartialFile) -> None:
        """Removes a partial file. Never fails: a leftover is removed together with the process's folder."""
        try:
            os.unlink(part.name, dir_fd=self._own)
        except OSError:
            pass

    def write_part(self, data: bytes) -> PartialFile:
        """A new partial file that contains `data`. OSError when it cannot be written; nothing is left over then."""
        part = self.new_part()
        try:
            part.append(data)
        except OSError:
            self.drop_part(part)
            raise
        return part

    def sync_parts(self, parts: Sequence[PartialFile]) -> None:
        """Makes the content of partial files durable."""
        sync_partial_files(parts, self._own, self._syncers)

    def move_into(
        self, directory: str, results: Sequence[tuple[PartialFile, str, str]]
    ) -> list[StoredResult | Blocked]:
        """Renames synced partial files to `<directory>/<task id><suffix>`, durably; `results`: (part, task id, suffix).

        Returns an answer for each: StoredResult (the part is gone), or Blocked (the part is unchanged). Raises Blocked
        when the directory itself is blocked. After OSError all may be moved again: those already moved are found.
        """
        answers: list[StoredResult | Blocked] = []
        with self._directory(directory) as fd:
            for part, task_id, suffix in results:
                try:
                    name = _file_name(task_id, suffix)
                    self._rename(part, fd, name)
                    answers.append(StoredResult(f"{directory}/{name}", part.size, part.sha256))
                except Blocked as e:
                    answers.append(e)
            os.fsync(fd)
        return answers

    def _rename(self, part: PartialFile, fd: int, name: str) -> None:
        try:
            # Replaces a file or symlink of that name, and never follows the symlink.
            os.rename(part.name, name, src_dir_fd=self._own, dst_dir_fd=fd)
        except FileNotFoundError:
            if _exists(self._own, part.name):
                raise  # the directory was removed meanwhile: the next try makes it again
            if not _exists(fd, name):  # else an earlier try has moved it
                raise RootExchanged from None
        except OSError as e:
            raise _as_blocked(e, name) from e

    @contextmanager
    def _directory(self, directory: str) -> Iterator[int]:
        """Descriptor of a result directory, made when it is missing."""
        try:
            segments = check_directory(directory).split("/")
        except Invalid as e:
            raise Blocked(e.detail) from None
        try:
            fd = open_directory_below(self._root.fd, segments, make_mode=_DIRECTORY_MODE, durable=True)
        except OSError as e:
            raise _as_blocked(e, str(e.filename)) from e
        try:
            yield fd
        finally:
            os.close(fd)


def _file_name(task_id: str, suffix: str) -> str:
    if id_of_key(task_id.encode()) != task_id:
        raise Blocked(f"{task_id[:40]!r} is not a task id")
    if not is_valid_suffix(suffix):
        raise Blocked(f"{suffix[:40]!r} is not a suffix: a dot and 1 to 16 letters or digits, such as .csv")
    return task_id + suffix


def _as_blocked(e: OSError, what: str) -> Exception:
    """Blocked if the error lasts until a person acts, else the error itself."""
    if e.errno not in _BLOCKED:
        return e
    why = {
        errno.ENOTDIR: "something that is not a directory is in the way",
        errno.ELOOP: "a symlink is in the way",
        errno.EISDIR: "a directory of the result's name is in the way",
        errno.EXDEV: "it lies on another filesystem than the results root",
    }
    return Blocked(f"the result cannot be stored as {what}: {why.get(e.errno or 0, e.strerror or str(e))}")


def _exists(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _remove_if_dead(private: int, name: str) -> None:
    """Removes another process's folder if its lock is free: the kernel frees it when the process ends."""
    try:
        folder = open_directory_below(private, [name])  # a symlink would lead out of the root
    except OSError:
        return  # not a storekeeper's folder
    try:
        lock = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    except OSError:
        return
    finally:
        os.close(folder)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(name, ignore_errors=True, dir_fd=private)
    except OSError:
        pass  # it is alive
    finally:
        os.close(lock)
