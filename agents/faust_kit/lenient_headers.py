"""Lets aiokafka, Faust's client, read records with header names that are not UTF-8.

Kafka takes any bytes as a header's name, and aiokafka decodes them strictly. Any producer can send such a record, and
it would stop aiokafka's consumer at that offset for ever. `install_lenient_reader` is called before an app is made. It
replaces each byte of such a name with `UNREADABLE_NAME`; the record's reader decides what to do with it.
"""

import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

from headrace.contract.records import UNREADABLE_NAME

_BEGIN = struct.Struct(">qi")  # how a batch begins: base offset, and the length of the rest


class LenientRecords:
    """The records that one fetch returned for a partition; replaces aiokafka's MemoryRecords."""

    def __init__(self, raw: bytes) -> None:
        self._raw, self._at = raw, 0
        self._records: Any = MemoryRecords(raw)

    def size_in_bytes(self) -> int:
        return len(self._raw)

    def has_next(self) -> bool:
        return bool(self._records.has_next())

    def next_batch(self) -> "LenientBatch":
        begin = self._at
        self._at += _BEGIN.size + _BEGIN.unpack_from(self._raw, begin)[1]
        return LenientBatch(self._records.next_batch(), self._raw[begin : self._at])


class LenientBatch:
    """A batch that is read by the strict, fast reader up to the first unreadable name, and leniently from there."""

    def __init__(self, batch: Any, raw: bytes) -> None:
        self._batch, self._raw = batch, raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        count = 0
        try:
            for record in self._batch:
                yield record
                count += 1
        except UnicodeDecodeError:
            yield from islice(_Lenient(self._raw), count, None)


class _Lenient(_DefaultRecordBatchPy):  # type: ignore[misc]  # marked as final
    """aiokafka's slower reader; overwrites an unreadable name and reads its record again."""

    def _read_msg(self, *args: Any) -> Any:
        while True:
            try:
                return super()._read_msg(*args)
            except UnicodeDecodeError as e:
                name = bytes(e.object)
                at = self._buffer.index(name, self._pos)
                self._buffer[at : at + len(name)] = UNREADABLE_NAME.encode() * len(name)


def install_lenient_reader() -> None:
    """Applies to every aiokafka consumer of this process; may be called more than once."""
    fetcher.MemoryRecords = LenientRecords
