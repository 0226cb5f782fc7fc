"""Results on disk: whole or not at all, durable before anyone hears of them, never outside the results root.

Used by the storekeeper, in its one thread. A file is written in a folder of this process's own below the
root, synced, and renamed into its directory, which is opened from the root's descriptor one segment at a time without
following symlinks. `Blocked` = this file can never be stored there; OSError = not now (disk full, root gone).
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

from agents.storekeeper.partial_files import PartialFile, sync_parts
from headrace.contract.directory import check_directory
from headrace.contract.ids import id_of_key
from headrace.errors import Invalid, Permanent
from headrace.kinds import is_valid_suffix
from headrace.storage.results_root import PRIVATE, ResultsRoot, stat_open

_LOCK = "lock"
_SYNCERS = 4  # more made it slower
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# What stays as it is until a person changes it: something else of that name, or no right to it.
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
    """The result cannot be stored where its task wanted it; says why in words."""


class RootExchanged(Exception):
    """The results root was away and is back, without what had been begun in it: read and write from the start."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A result that is on disk. `file` is relative to the root."""

    file: str
    size: int  # bytes
    sha256: str  # hex


class ResultStore:
    """Stores results below one root. `open()` first; `close()` removes what was not finished."""

    def __init__(self, root: ResultsRoot) -> None:
        self._root = root
        self._token = str(uuid.uuid4())
        self._own = -1  # descriptor of this process's own folder
        self._lock = -1
        self._syncers = ThreadPoolExecutor(_SYNCERS, "result-sync")

    def open(self) -> None:
        """Makes the process's own folder, and clears away those of processes that are gone. OSError when it cannot."""
        private = _enter(self._root.fd, PRIVATE)
        try:
            fcntl.flock(private, fcntl.LOCK_EX)  # one at a time: a folder just made is not locked yet
            os.mkdir(self._token, 0o700, dir_fd=private)
            self._own = os.open(self._token, _OPEN_DIRECTORY, dir_fd=private)
            self._lock = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=self._own)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            for name in os.listdir(private):
                if name != self._token:
                    _clear_if_dead(private, name)
        finally:
            os.close(private)

    def check(self) -> str | None:
        """None while the root is there, else the reason. RootExchanged when it went and came back: begin anew."""
        reason = self._root.check()
        if reason is None:
            own = stat_open(self._own)
            if self._root.openings > 1 or own is None or not own.st_nlink:
                raise RootExchanged
        return reason

    def close(self) -> None:
        """Removes the process's own folder with whatever is in it."""
        self._syncers.shutdown()
        if self._own < 0:
            return
        try:
            private = os.open(PRIVATE, _OPEN_DIRECTORY, dir_fd=self._root.fd)
        except OSError:
            pass  # the root is gone, and the folder with it
        else:
            shutil.rmtree(self._token, ignore_errors=True, dir_fd=private)
            os.close(private)
        for fd in (self._own, self._lock):
            if fd >= 0:
                os.close(fd)
        self._own = self._lock = -1

    def begin(self) -> PartialFile:
        """A new, empty part."""
        return PartialFile(str(uuid.uuid4()), self._own)

    def drop(self, part: PartialFile) -> None:
        """Forgets a part and its bytes. Never fails: what is left over goes with the process's folder."""
        try:
            os.unlink(part.name, dir_fd=self._own)
        except OSError:
            pass

    def write(self, data: bytes) -> PartialFile:
        """A part with `data` in it, and nothing left over when that fails."""
        part = self.begin()
        try:
            part.append(data)
        except OSError:
            self.drop(part)
            raise
        return part

    def sync(self, parts: Sequence[PartialFile]) -> None:
        """Makes what is in the parts durable."""
        sync_parts(parts, self._own, self._syncers)

    def place(self, directory: str, results: Sequence[tuple[PartialFile, str, str]]) -> list[Stored | Blocked]:
        """Puts synced parts into `<directory>/<task id><suffix>` each, durably; `results` are (part, task id, suffix).

        One answer each: stored (the part is used up), or blocked (the part is as it was). Blocked is raised when it is
        the directory itself. After OSError all may be placed again: what has been is found.
        """
        answers: list[Stored | Blocked] = []
        with self._directory(directory) as fd:
            for part, task_id, suffix in results:
                try:
                    name = _file_name(task_id, suffix)
                    self._rename(part, fd, name)
                    answers.append(Stored(f"{directory}/{name}", part.size, part.sha256))
                except Blocked as e:
                    answers.append(e)
            os.fsync(fd)
        return answers

    def _rename(self, part: PartialFile, fd: int, name: str) -> None:
        try:
            # Replaces a file or a symlink of that name itself, whoever planted it, and follows nothing.
            os.rename(part.name, name, src_dir_fd=self._own, dst_dir_fd=fd)
        except FileNotFoundError:
            if _there(self._own, part.name):
                raise  # the directory has gone meanwhile: next time it is made anew
            if not _there(fd, name):  # else it was placed by an earlier try
                raise RootExchanged from None
        except OSError as e:
            raise _as_blocked(e, name) from e

    @contextmanager
    def _directory(self, directory: str) -> Iterator[int]:
        try:
            segments = check_directory(directory).split("/")
        except Invalid as e:
            raise Blocked(e.detail) from None
        fd = os.dup(self._root.fd)
        try:
            for i, segment in enumerate(segments):
                try:
                    below = _enter(fd, segment)
                except OSError as e:
                    raise _as_blocked(e, "/".join(segments[: i + 1])) from e
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)


def _file_name(task_id: str, suffix: str) -> str:
    if id_of_key(task_id.encode()) != task_id:
        raise Blocked(f"{task_id!r} is no task id")
    if not is_valid_suffix(suffix):
        raise Blocked(f"the suffix {suffix!r} is none: a dot and 1 to 16 letters or digits, such as .csv")
    return task_id + suffix


def _enter(parent: int, name: str) -> int:
    """Descriptor of the directory `name` in `parent`, made (0755, durable) when it is missing; follows no symlink."""
    try:
        return os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        pass
    try:
        os.mkdir(name, 0o755, dir_fd=parent)
        os.fsync(parent)
    except FileExistsError:
        pass  # another thread or storekeeper was faster
    return os.open(name, _OPEN_DIRECTORY, dir_fd=parent)


def _as_blocked(e: OSError, what: str) -> Exception:
    if e.errno not in _BLOCKED:
        return e
    why = {
        errno.ENOTDIR: "something that is no directory is in the way",
        errno.ELOOP: "a symlink is in the way",
        errno.EISDIR: "a directory of the result's name is in the way",
        errno.EXDEV: "it lies on another filesystem than the results root",
    }
    return Blocked(f"the result cannot be stored as {what}: {why.get(e.errno or 0, e.strerror or str(e))}")


def _there(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _clear_if_dead(private: int, name: str) -> None:
    """Removes another process's folder if the kernel says, by its lock, that it is gone."""
    try:
        lock = os.open(f"{name}/{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=private)
    except OSError:
        return  # no folder of ours
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(name, ignore_errors=True, dir_fd=private)
    except OSError:
        pass  # it lives
    finally:
        os.close(lock)
