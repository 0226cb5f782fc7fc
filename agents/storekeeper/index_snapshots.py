"""Snapshots of the terminal index in the results root: the base file of each partition, for its next owner.

They lie in `.index-snapshots`, a file a partition. A new owner copies the file and reads only what the outputs hold
since (docs/protocol.md, step 7). One that is damaged, of another installation or version, or that does not fit the log
is passed over and said: the log has everything. All methods may run in any thread.
"""

import contextlib
import logging
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from headrace.process.throttled_log import log_throttled
from headrace.storage.results_root import ResultsRoot
from headrace.storage.safe_open import open_directory_below, open_file_below
from headrace.storage.sqlite import Damaged

from .base_file import BaseFile, BaseHead
from .terminal_index import OUTPUTS, TerminalIndex

log = logging.getLogger(__name__)

FOLDER = ".index-snapshots"  # below the results root; in `.headrace` a storekeeper that starts would remove it
_WORTH = 5000  # so many events are copied rather than read
_PIECE = 1 << 20  # bytes
_STALE_S = 3600.0  # unfinished files of killed processes are removed after it


class IndexSnapshots:
    """Of one installation's results root."""

    def __init__(self, root: ResultsRoot, worth: int = _WORTH) -> None:
        """`worth`: from so many events on a snapshot is copied, because reading them takes longer."""
        self._root, self._worth = root, worth

    def save(self, path: Path, partition: int) -> None:
        """Copies the base file at `path` there: whole or not at all, durably. OSError."""
        temporary = f".{partition:04d}.{uuid.uuid4()}"
        with self._folder() as folder, path.open("rb") as source:
            self._remove_stale(folder)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
            try:
                with open(fd, "wb") as target:
                    while piece := source.read(_PIECE):
                        target.write(piece)
                    target.flush()
                    os.fsync(target.fileno())
                os.rename(temporary, f"{partition:04d}", src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                os.unlink(temporary, dir_fd=folder)
                raise
            os.fsync(folder)

    def try_to_save(self, path: Path, partition: int) -> None:
        """`save`, but an error is only logged: the next one has more anyway."""
        try:
            self.save(path, partition)
        except OSError as e:
            log_throttled("snapshot", "The snapshot of partition %d's index is saved later: %s", partition, e)

    def load(self, index: TerminalIndex, partition: int, known: int, ends: Mapping[str, int]) -> BaseFile | None:
        """A copy of the partition's snapshot for the index, when it has much more than the `known` events there.

        `ends`: output -> its end in the log. Never fails: without a snapshot the log is read.
        """
        try:
            fd = open_file_below(self._root.fd, [FOLDER], f"{partition:04d}")
        except FileNotFoundError:
            return None
        except OSError as e:
            return _passed_over(partition, e.strerror or str(e))
        try:
            head = BaseHead.read(fd)
            if sum(head.positions) - known < self._worth:
                return None
            if why := _unfit(head, index.installation, partition, ends):
                return _passed_over(partition, why)
            base = BaseFile(_copy(fd, index.bases.path_of_copy(partition)))
        except (OSError, Damaged) as e:
            return _passed_over(partition, str(e))
        finally:
            os.close(fd)
        log.info("partition %d: %d ids of its index come from a snapshot", partition, head.entries)
        return base

    @contextlib.contextmanager
    def _folder(self) -> Iterator[int]:
        fd = open_directory_below(self._root.fd, [FOLDER], make_mode=0o755, durable=True)
        try:
            yield fd
        finally:
            os.close(fd)

    def _remove_stale(self, folder: int) -> None:
        for name in os.listdir(folder):
            if name.startswith("."):
                with contextlib.suppress(FileNotFoundError):
                    age_s = os.fstat(folder).st_mtime - os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime
                    if age_s > _STALE_S:
                        os.unlink(name, dir_fd=folder)


def _unfit(head: BaseHead, installation: str, partition: int, ends: Mapping[str, int]) -> str | None:
    """Why the snapshot must not be used, in words."""
    if head.installation != installation or head.partition != partition:
        return f"it is partition {head.partition} of the installation {head.installation!r}"
    for output, position in zip(OUTPUTS, head.positions, strict=True):
        if position > ends[output]:
            return f"it reaches to offset {position} of {output}, which ends at {ends[output]}: it is of another log"
    return None


def _copy(fd: int, path: Path) -> Path:
    os.lseek(fd, 0, os.SEEK_SET)
    with path.open("wb") as target:
        while piece := os.read(fd, _PIECE):
            target.write(piece)
        target.flush()
        os.fsync(target.fileno())
    return path


def _passed_over(partition: int, why: str) -> BaseFile | None:
    log.warning("The snapshot of partition %d's index is passed over, the log is read: %s", partition, why)
    return None
