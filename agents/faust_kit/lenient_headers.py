"""Lets aiokafka, Faust's client, read records whose headers have names that are no UTF-8.

Kafka takes any bytes as a header's name, aiokafka decodes them strictly: a single such record, which every producer can
send, would end its consumer at that offset for ever. `install` is called before an app is made; such names then read
as `UNREADABLE`, once for each of their bytes, and what the record becomes is for its reader to say.
"""

import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

from headrace.contract.records import UNREADABLE

_BEGIN = struct.Struct(">qi")  # of each batch: base offset, and the length of what follows


class LenientRecords:
    """What one fetch has brought of a partition, as aiokafka's own MemoryRecords."""

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
    """A batch that is read the strict and fast way as far as that goes."""

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
    """aiokafka's slower reader, which repeats a record with its unreadable names overwritten."""

    def _read_msg(self, *given: Any) -> Any:
        while True:
            try:
                return super()._read_msg(*given)
            except UnicodeDecodeError as e:
                name = bytes(e.object)
                at = self._buffer.index(name, self._pos)
                self._buffer[at : at + len(name)] = UNREADABLE.encode() * len(name)


def install() -> None:
    """For every consumer of this process; may be called more than once."""
    fetcher.MemoryRecords = LenientRecords
