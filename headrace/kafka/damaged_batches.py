"""Batches of records that cannot be decoded at the protocol's level: what is in one as far as it can be read, and the
list of those that this process has passed over.

A broker takes no such batch from a producer. It is the work of a damaged disk (a wrong checksum), or of a later version
of Kafka (a codec or a magic byte that the client does not know). Source of the layout: Kafka's record batch, magic 2.
"""

import struct
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from headrace.contract.records import Place

KEPT_S = 3600.0  # how long a passed-over batch is named among the notes
_MOST_KEPT = 100

_LENGTH = struct.Struct(">qi")  # base offset, length of the rest
_HEADER = struct.Struct(">qiibIhiqqqhii")  # of magic 2, up to the number of records
_MAX_TIMESTAMP = 8  # its place among the header's fields
_GZIP_WBITS = 31


@dataclass(frozen=True, slots=True)
class DamagedBatch:
    """`offset` to `next_offset` - 1 are passed over. `readable`: records whose keys can be read, by offset."""

    place: Place
    offset: int
    next_offset: int
    why: str
    readable: tuple[tuple[int, bytes], ...] = ()
    timestamp_ms: int = 0

    def __str__(self) -> str:
        last = self.next_offset - 1
        span = f"offset {last} is" if last == self.offset else f"offsets {self.offset} to {last} are"
        kept = len(self.readable)
        return (
            f"{self.place[0]}/{self.place[1]}: a batch of records cannot be decoded ({self.why}), so {span} passed "
            "over; "
            + (f"the keys of {kept} records can still be read" if kept else "no key in it can be read any more")
        )


class DamagedBatches:
    """Those that the consumers of one process have passed over; safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[tuple[Place, int], tuple[float, DamagedBatch]] = {}
        self.count = 0

    def add(self, batch: DamagedBatch) -> bool:
        """Returns whether it is new: several consumers of the process read the same batch."""
        key = batch.place, batch.offset
        with self._lock:
            is_new = key not in self._found
            self.count += is_new
            self._found[key] = time.monotonic(), batch
            while len(self._found) > _MOST_KEPT:
                del self._found[next(iter(self._found))]
        return is_new

    def find(self, place: Place, offset: int) -> DamagedBatch | None:
        """The batch that begins there, if a consumer of this process has looked into it before."""
        with self._lock:
            found = self._found.get((place, offset))
            return found[1] if found is not None else None

    def within(self, place: Place, begin: int, end: int) -> list[DamagedBatch]:
        """Those of a partition that begin at an offset from `begin` to before `end`, in order."""
        with self._lock:
            found = [batch for _, batch in self._found.values() if batch.place == place]
        return sorted((b for b in found if begin <= b.offset < end), key=lambda b: b.offset)

    def notes(self) -> list[str]:
        """A sentence for each batch that was passed over in the last hour."""
        since = time.monotonic() - KEPT_S
        with self._lock:
            return [str(batch) for at, batch in self._found.values() if at > since]


def next_base(raw: bytes, high_watermark: int) -> int:
    """The offset after the first batch in `raw`, which begins with it as the broker gave it.

    The next batch's own base offset decides, because the damage may be in the first one's last offset.
    """
    base, length = _LENGTH.unpack_from(raw)
    end = _LENGTH.size + length
    if len(raw) >= end + 8:
        (following,) = struct.unpack_from(">q", raw, end)
        if base < following <= high_watermark:
            return int(following)
    if len(raw) >= _HEADER.size:
        last = base + _HEADER.unpack_from(raw)[6]
        if base <= last < high_watermark:
            return int(last + 1)
    return high_watermark


def readable_keys(raw: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """(offset, key) of each record in the first batch whose key can be read, and the batch's time in ms.

    Nothing of a magic other than 2, and of a codec that Python's library lacks. Keys may be damaged too.
    """
    if len(raw) < _HEADER.size:
        return [], 0
    fields = _HEADER.unpack_from(raw)
    base, length, _, magic, _, attributes, last_delta = fields[:7]
    body = raw[_HEADER.size : _LENGTH.size + length]
    if magic != 2 or attributes & 7 > 1:
        return [], 0
    try:
        records = zlib.decompress(body, _GZIP_WBITS) if attributes & 7 else body
    except zlib.error:
        return [], 0
    return [(base + delta, key) for delta, key in _keys(records) if 0 <= delta <= last_delta], fields[_MAX_TIMESTAMP]


def _keys(records: bytes) -> Iterator[tuple[int, bytes]]:
    """(offset delta, key) of each record, up to the first that makes no sense."""
    at = 0
    try:
        while at < len(records):
            size, at = _varint(records, at)
            end = at + size
            if size <= 0 or end > len(records):
                return
            _, at = _varint(records, at + 1)  # after the attributes: the timestamp
            delta, at = _varint(records, at)
            key_size, at = _varint(records, at)
            if 0 <= key_size <= end - at:
                yield delta, records[at : at + key_size]
            at = end
    except (IndexError, ValueError):
        return


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """A signed number (zigzag) and the place after it; IndexError or ValueError where there is none."""
    number = shift = 0
    while True:
        byte = raw[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return (number >> 1) ^ -(number & 1), at
        shift += 7
        if shift > 63:
            raise ValueError("not a varint")
