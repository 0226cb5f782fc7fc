"""Kafka's record batches, made a thousand records at a time from one encoded record, with numpy.

The records of a batch have the same size and differ in columns of bytes: the task id, a number, a time. So a batch
costs a few copies, where a client encodes record by record. The format is Kafka's, version 2, without compression, as
Headrace's own producers send it.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from aiokafka.record.util import calc_crc32c

from headrace.contract.records import Outgoing

_ONE_BYTE_DELTAS = 64  # so many offset deltas have one byte, the next 8128 have two
MOST_RECORDS = 8192

Column = np.ndarray  # of uint8: a row of bytes for each record


@dataclass(frozen=True, slots=True)
class _Encoded:
    """One record's bytes, the place of its offset delta, and of each occurrence of a marker."""

    data: bytes
    delta_at: int
    places: Mapping[bytes, Sequence[int]]


def encode_batch(template: Outgoing, columns: Mapping[bytes, Column], at_ms: int) -> bytes:
    """A batch with a record for each row, like `template` but with each marker replaced by the row's bytes.

    `columns`: marker, as it stands in key, value and headers of the template -> what replaces it, in as many bytes.
    `at_ms` is the time of all records, where the topic takes the producer's.
    """
    count = len(next(iter(columns.values())))
    if not 0 < count <= MOST_RECORDS:
        raise ValueError(f"{count} records: 1 to {MOST_RECORDS} fit in a batch")
    parts = []
    for first, last, delta_size in ((0, min(count, _ONE_BYTE_DELTAS), 1), (_ONE_BYTE_DELTAS, count, 2)):
        if first < last:
            encoded = _encode_record(template, tuple(columns), delta_size)
            parts.append(_fill_rows(encoded, {m: c[first:last] for m, c in columns.items()}, first, last, delta_size))
    records = b"".join(parts)
    tail = struct.pack(">hiqqqhii", 0, count - 1, at_ms, at_ms, -1, -1, -1, count) + records
    # The length counts what follows it: epoch (4), magic (1), checksum (4) and what the checksum covers.
    return struct.pack(">qiibI", 0, len(tail) + 9, -1, 2, calc_crc32c(tail)) + tail


def _fill_rows(encoded: _Encoded, columns: Mapping[bytes, Column], first: int, last: int, delta_size: int) -> bytes:
    rows = np.tile(np.frombuffer(encoded.data, np.uint8), (last - first, 1))
    zigzag = np.arange(first, last, dtype=np.uint32) * 2
    at = encoded.delta_at
    if delta_size == 1:
        rows[:, at] = zigzag
    else:
        rows[:, at], rows[:, at + 1] = zigzag & 0x7F | 0x80, zigzag >> 7
    for marker, column in columns.items():
        for place in encoded.places[marker]:
            rows[:, place : place + len(marker)] = column
    return rows.tobytes()


def _encode_record(record: Outgoing, markers: Sequence[bytes], delta_size: int) -> _Encoded:
    found: dict[bytes, list[int]] = {m: [] for m in markers}
    body = bytearray(b"\0\0" + b"\0" * delta_size)  # attributes, time delta, offset delta

    def add(data: bytes | None) -> None:
        body.extend(_varint(-1 if data is None else len(data)))
        for marker in markers:
            at = (data or b"").find(marker)
            while at >= 0:
                found[marker].append(len(body) + at)
                at = (data or b"").find(marker, at + 1)
        body.extend(data or b"")

    add(record.key)
    add(record.value)
    body.extend(_varint(len(record.headers)))
    for name, value in record.headers:
        add(name.encode())
        add(value)
    length = _varint(len(body))
    places = {m: [len(length) + at for at in some] for m, some in found.items()}
    return _Encoded(length + bytes(body), len(length) + 2, places)


def _varint(value: int) -> bytes:
    """Kafka's varint: zigzag, seven bits a byte, the lowest first."""
    left, found = value << 1 ^ value >> 63, bytearray()
    while left > 0x7F:
        found.append(left & 0x7F | 0x80)
        left >>= 7
    found.append(left)
    return bytes(found)
