"""What can still be read of a damaged batch: its end, and the keys of its records."""

import struct

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from headrace.kafka.damaged_batches import DamagedBatch, DamagedBatches, next_base, readable_keys

KEYS = [(n, b"key-%d" % n) for n in range(5)]


def batch(base: int = 0, codec: int = 0) -> bytes:
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 1 << 16)
    for n, key in KEYS:
        builder.append(n, 1234, key, b"value" * 20, [("header", b"x")])
    raw = bytearray(builder.build())
    struct.pack_into(">q", raw, 0, base)
    return bytes(raw)


@pytest.mark.parametrize("codec", [0, 1])
def test_keys_are_read_without_a_codec_and_with_gzip(codec: int) -> None:
    keys, timestamp_ms = readable_keys(batch(100, codec))
    assert keys == [(100 + n, key) for n, key in KEYS]
    assert timestamp_ms == 1234


def test_nonsense_has_no_keys_and_ends_nothing() -> None:
    raw = batch()
    assert readable_keys(raw[:30]) == ([], 0)
    assert readable_keys(raw[:16] + b"\x09" + raw[17:]) == ([], 0)
    for codec in (1, 3):  # what follows is not compressed
        assert readable_keys(raw[:22] + bytes([codec]) + raw[23:]) == ([], 0)
    for at in range(61, len(raw)):
        for byte in (0x00, 0x7F, 0xFF):
            readable_keys(raw[:at] + bytes([byte]) + raw[at + 1 :])


def test_the_next_batch_says_where_it_begins_also_where_the_damaged_one_lies() -> None:
    first = bytearray(batch(10))
    assert next_base(bytes(first) + batch(15), 20) == 15
    assert next_base(bytes(first), 20) == 15
    struct.pack_into(">i", first, 23, 1_000_000)  # its last offset
    assert next_base(bytes(first) + batch(15), 20) == 15
    assert next_base(bytes(first), 20) == 20


def test_a_batch_counts_once_however_many_consumers_meet_it() -> None:
    found = DamagedBatches()
    one = DamagedBatch(("tasks.normal", 3), 5, 10, "wrong checksum")
    assert [found.add(one), found.add(one), found.count] == [True, False, 1]
    [note] = found.notes()
    assert note.startswith("tasks.normal/3:")
    assert "offsets 5 to 9 are passed over" in note
    assert found.within(("tasks.normal", 3), 0, 6) == [one]
    assert found.within(("tasks.normal", 3), 6, 9) == []
