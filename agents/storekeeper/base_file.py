"""The bulk of the terminal index of one partition: a file of sorted ids that never changes once it is written.

Used by the index, and as a snapshot for the partition's next owner. After a line of JSON that says what the file holds
come the entries, 24 bytes each: the id, and in which output at which offset its terminal event is. A block of them is
read for each question; their first ids and checksums are in memory, less than a byte an entry. `Damaged` for a file
that is not what was written; OSError while the disk is away.
"""

import bisect
import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from headrace.storage.sqlite import Damaged

VERSION = 1
ENTRY_BYTES = 24
_ID_BYTES = 16
_BLOCK = 256 * ENTRY_BYTES
_HEAD_BYTES = 4096

Entry = tuple[bytes, int, int]  # id, number of the output, offset


@dataclass(frozen=True, slots=True)
class BaseHead:
    """What the file says of itself. `positions`: for each output the offset to which its events are in the file."""

    installation: str
    partition: int
    positions: tuple[int, int]
    entries: int
    sha256: str  # of the entries
    version: int = VERSION

    def encode(self) -> bytes:
        fields = {name: getattr(self, name) for name in self.__slots__}
        return (orjson.dumps(fields) + b"\n").ljust(_HEAD_BYTES, b" ")

    @classmethod
    def decode(cls, raw: bytes) -> "BaseHead":
        """Damaged for anything else, and for another version."""
        try:
            f = orjson.loads(raw)
            if f["version"] != VERSION:
                raise Damaged(f"it has version {f['version']}, not {VERSION}")
            completed, dead = (int(n) for n in f["positions"])
            positions = (completed, dead)
            return cls(str(f["installation"]), int(f["partition"]), positions, int(f["entries"]), str(f["sha256"]))
        except (ValueError, KeyError, TypeError) as e:
            raise Damaged(f"its first line is not that of an index: {e}") from None

    @classmethod
    def read(cls, fd: int) -> "BaseHead":
        return cls.decode(os.pread(fd, _HEAD_BYTES, 0))


class BaseFile:
    """An open file. For one thread at a time; `close` it."""

    def __init__(self, path: Path) -> None:
        """Reads all of it once. Damaged when it does not have the checksum that it should have."""
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.head = BaseHead.read(self._fd)
            self._fences: list[bytes] = []  # the first id of each block
            self._checksums: list[int] = []
            self._load()
        except BaseException:
            os.close(self._fd)
            raise

    def close(self) -> None:
        os.close(self._fd)

    def move(self, path: Path) -> None:
        """Renames the file, durably, over an older one."""
        self.path.replace(path)
        self.path = path
        sync_folder(path.parent)

    def __contains__(self, task_id: bytes) -> bool:
        """Whether the task is in the file."""
        number = bisect.bisect_right(self._fences, task_id) - 1
        if number < 0:
            return False
        block = os.pread(self._fd, _BLOCK, _HEAD_BYTES + number * _BLOCK)
        if zlib.crc32(block) != self._checksums[number]:
            raise Damaged(f"block {number} of {self.path} is not what it was")
        at = block.find(task_id)
        while at >= 0 and at % ENTRY_BYTES:
            at = block.find(task_id, at + 1)
        return at >= 0

    def entries(self) -> Iterator[bytes]:
        """Blocks of whole entries, in order. Opens the file by itself, so that another thread may do it."""
        with self.path.open("rb") as f:
            f.seek(_HEAD_BYTES)
            while block := f.read(_BLOCK):
                yield block

    def _load(self) -> None:
        digest, size = hashlib.sha256(), 0
        for block in self.entries():
            self._fences.append(block[:_ID_BYTES])
            self._checksums.append(zlib.crc32(block))
            digest.update(block)
            size += len(block)
        if size != self.head.entries * ENTRY_BYTES or digest.hexdigest() != self.head.sha256:
            raise Damaged(f"{self.path} is not what was written to it")


def pack(entry: Entry) -> bytes:
    """The 24 bytes of an entry."""
    task_id, output, offset = entry
    return task_id + (offset << 1 | output).to_bytes(8, "big")


def write_base(
    path: Path,
    installation: str,
    partition: int,
    positions: tuple[int, int],
    old: BaseFile | None,
    added: Iterable[Entry],
    first_kept: Mapping[int, int],
) -> None:
    """Writes the entries of `old` and `added` to a file at `path`, durably, in constant memory but for `added`.

    `first_kept`: output -> offset of its first event that is still remembered; entries before it are left out.
    """
    temporary = path.with_name(path.name + ".new")
    digest, count = hashlib.sha256(), 0
    with temporary.open("wb") as f:
        f.write(b" " * _HEAD_BYTES)
        for piece in _merged(old, sorted(pack(e) for e in added), first_kept):
            f.write(piece)
            digest.update(piece)
            count += len(piece) // ENTRY_BYTES
        f.seek(0)
        f.write(BaseHead(installation, partition, positions, count, digest.hexdigest()).encode())
        f.flush()
        os.fsync(f.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames in the folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _merged(old: BaseFile | None, added: list[bytes], first_kept: Mapping[int, int]) -> Iterator[bytes]:
    """The entries of both in order, block by block; of an id that is in both, the old one."""
    at = 0
    for block in old.entries() if old is not None else ():
        last = block[-ENTRY_BYTES:][:_ID_BYTES]
        here = at
        while at < len(added) and added[at][:_ID_BYTES] <= last:
            at += 1
        if any(first_kept.values()):
            block = b"".join(e for e in _split(block) if _is_kept(e, first_kept))
        yield _with_added(block, added[here:at]) if here < at else block
    yield b"".join(_unique(added[at:]))


def _with_added(block: bytes, added: list[bytes]) -> bytes:
    return b"".join(_unique(sorted([*_split(block), *added], key=_id_of)))  # stable: the old one is first


def _unique(entries: Iterable[bytes]) -> Iterator[bytes]:
    before = b""
    for entry in entries:
        if entry[:_ID_BYTES] != before:
            before = entry[:_ID_BYTES]
            yield entry


def _id_of(entry: bytes) -> bytes:
    return entry[:_ID_BYTES]


def _split(block: bytes) -> Iterator[bytes]:
    return (block[i : i + ENTRY_BYTES] for i in range(0, len(block), ENTRY_BYTES))


def _is_kept(entry: bytes, first_kept: Mapping[int, int]) -> bool:
    place = int.from_bytes(entry[_ID_BYTES:], "big")
    return place >> 1 >= first_kept.get(place & 1, 0)
