"""The partitioner agrees with Java's client."""

import pytest

from headrace.kafka.partitioner import partition_of


@pytest.mark.parametrize(
    ("key", "murmur2"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_ids_are_in_the_partition_that_javas_client_chooses(key: bytes, murmur2: int) -> None:
    # The values of Kafka's own test of its murmur2.
    for partitions in (1, 4, 16, 97):
        assert partition_of(key, partitions) == (murmur2 & 0x7FFFFFFF) % partitions
