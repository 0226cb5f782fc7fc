"""Damages batches in the log segments of a stopped broker, as a bad disk or a later version of Kafka would."""

import struct
from collections.abc import Iterator
from pathlib import Path

from aiokafka.record.util import calc_crc32c

KINDS = ("checksum", "codec", "magic", "compressed data")


def damage_batch(folder: Path, topic: str, partition: int, offset: int, kind: str) -> None:
    """`folder` is the broker's; `offset` is that of the batch's first record."""
    file = folder / "records" / f"{topic}-{partition}" / f"{0:020}.log"
    raw = bytearray(file.read_bytes())
    [(at, size)] = [(at, size) for at, size, base in _batches(raw) if base == offset]
    if kind == "checksum":
        raw[at + size - 2] ^= 0xFF  # in the last record's value
    elif kind == "magic":
        raw[at + 16] = 9
    elif kind == "codec":
        raw[at + 22] = raw[at + 22] & ~7 | 6  # a codec that Kafka does not have yet
        _sign(raw, at, size)
    else:
        raw[at + 61 : at + size] = bytes(b ^ 0x5A for b in raw[at + 61 : at + size])
        raw[at + 22] = raw[at + 22] & ~7 | 3  # lz4
        _sign(raw, at, size)
    file.write_bytes(raw)


def _batches(raw: bytes) -> Iterator[tuple[int, int, int]]:
    """(place in the file, size, base offset) of each."""
    at = 0
    while at + 12 <= len(raw):
        base, length = struct.unpack_from(">qi", raw, at)
        if length <= 0:
            return
        yield at, 12 + length, base
        at += 12 + length


def _sign(raw: bytearray, at: int, size: int) -> None:
    struct.pack_into(">I", raw, at + 17, calc_crc32c(bytes(raw[at + 21 : at + size])))
