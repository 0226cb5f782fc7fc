"""Faust's client reads on past a header whose name is not UTF-8."""

import struct

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from agents.faust_kit.lenient_headers import install_lenient_reader
from headrace.contract.records import UNREADABLE_NAME


def test_a_record_with_an_unreadable_header_stops_no_other() -> None:
    batch = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 16)
    for offset, name in enumerate(("one", "NAME", "two")):
        batch.append(offset, None, b"key", str(offset).encode(), [(name, b"1")])
    raw = bytes(batch.build()).replace(b"NAME", b"\xff\xfe\xff\xfe")
    raw = raw[:17] + struct.pack(">I", calc_crc32c(raw[21:])) + raw[21:]
    install_lenient_reader()
    records = list(fetcher.MemoryRecords(raw).next_batch())
    assert [r.value for r in records] == [b"0", b"1", b"2"]
    assert [r.headers[0][0] for r in records] == ["one", UNREADABLE_NAME * 4, "two"]
