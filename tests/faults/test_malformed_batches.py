"""A batch whose checksum is good and whose records are malformed would silence a consumer: the broker refuses it.

So nobody can put one into a topic; a disk that changes a batch also breaks its checksum (test_damaged_batches).
"""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from headrace.kafka.client import Kafka
from headrace.kafka.raw_client import leader_of, raw_client
from headrace.kafka.topics import apply_topics
from headrace.settings import Settings

_HEADER = 61  # bytes of a batch before its first record
_GZIP = 1


def batch() -> bytearray:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )
    for offset in range(3):
        builder.append(offset, timestamp=1, key=b"key", value=b"v" * 50, headers=[("name", b"value")])
    return bytearray(builder.build())


def with_long_record(raw: bytearray) -> None:
    raw[_HEADER] = 0x7E  # the first record is 63 bytes long by its own account


def with_long_key(raw: bytearray) -> None:
    raw[_HEADER + 5] = 0x7E  # after length (two bytes), attributes, timestamp and offset


def with_too_many_records(raw: bytearray) -> None:
    struct.pack_into(">i", raw, 57, 9)
    struct.pack_into(">i", raw, 23, 8)


def with_too_few_records(raw: bytearray) -> None:
    struct.pack_into(">i", raw, 57, 2)
    struct.pack_into(">i", raw, 23, 1)


def with_garbage(raw: bytearray) -> None:
    raw[_HEADER:] = bytes(b ^ 0x5A for b in raw[_HEADER:])


def compressed(raw: bytearray) -> bytearray:
    made = raw[:_HEADER] + gzip.compress(raw[_HEADER:])
    made[22] |= _GZIP
    struct.pack_into(">i", made, 8, len(made) - 12)
    return made


def as_it_is(raw: bytearray) -> bytearray:
    return raw


async def produce(kafka: Kafka, raw: bytearray) -> int:
    """Sends the batch with a good checksum; returns Kafka's error code."""
    struct.pack_into(">I", raw, 17, calc_crc32c(bytes(raw[21:])))
    topic = kafka.topic("tasks.normal")
    async with raw_client(kafka, 30) as client:
        request = ProduceRequest(None, -1, 10_000, [(topic, [(0, bytes(raw))])])
        answer = await client.send(await leader_of(client, topic, 0), request)
    code: int = answer.topics[0][1][0][1]
    return code


@pytest.mark.parametrize("packed", [as_it_is, compressed])
@pytest.mark.parametrize(
    "damage", [with_long_record, with_long_key, with_too_many_records, with_too_few_records, with_garbage]
)
async def test_the_broker_refuses_malformed_records_under_a_good_checksum(
    broker: str,
    prefix: str,
    tmp_path: Path,
    damage: Callable[[bytearray], None],
    packed: Callable[[bytearray], bytearray],
) -> None:
    kafka = Kafka(Settings(kafka=broker, topic_prefix=prefix, data=tmp_path), "malformed")
    apply_topics(kafka.admin(), prefix, 1)
    assert await produce(kafka, packed(batch())) == 0, "the batch itself is well formed"
    raw = batch()
    damage(raw)
    assert await produce(kafka, packed(raw)) != 0
