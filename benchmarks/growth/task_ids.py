"""Random task ids by the thousand, with the partition of each: the partitioner of `headrace.kafka`, over arrays."""

import numpy as np

ID_LENGTH = 36
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_DIGITS = np.array([i for i in range(ID_LENGTH) if i not in (8, 13, 18, 23)])


def random_ids(random: np.random.Generator, count: int) -> np.ndarray:
    """`count` ids of UUID version 4 as rows of 36 bytes of text."""
    raw = random.integers(0, 256, (count, 16), np.uint8)
    raw[:, 6] = raw[:, 6] & 0x0F | 0x40
    raw[:, 8] = raw[:, 8] & 0x3F | 0x80
    text = np.full((count, ID_LENGTH), ord("-"), np.uint8)
    text[:, _DIGITS[0::2]] = _HEX[raw >> 4]
    text[:, _DIGITS[1::2]] = _HEX[raw & 15]
    return text


def partitions_of_ids(ids: np.ndarray, partitions: int) -> np.ndarray:
    """The partition of each id: murmur2, as `headrace.kafka.partitioner.partition_of`."""
    m = np.uint32(0x5BD1E995)
    h = np.full(len(ids), 0x9747B28C ^ ID_LENGTH, np.uint32)
    for word in np.ascontiguousarray(ids).view("<u4").T:
        k = word * m
        k = (k ^ k >> np.uint32(24)) * m
        h = h * m ^ k
    h = (h ^ h >> np.uint32(13)) * m
    h ^= h >> np.uint32(15)
    found: np.ndarray = (h & np.uint32(0x7FFFFFFF)) % np.uint32(partitions)
    return found


def decimal_column(first: int, last: int) -> np.ndarray:
    """The numbers from `first` to before `last`, all with the same number of digits, as rows of text."""
    width = len(str(first))
    if first >= last or len(str(last - 1)) != width:
        raise ValueError(f"{first} to {last} have several lengths, or none")
    numbers = np.arange(first, last, dtype=np.int64)
    return np.stack([numbers // 10**n % 10 + ord("0") for n in reversed(range(width))], axis=1).astype(np.uint8)
