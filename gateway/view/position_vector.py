"""Positions of all event partitions as the id of an event on GET /events: varints in base64, so any gateway resumes.

`encode` and `decode` are each other's inverse; what is no such id raises ValueError. With 16 partitions an id has some
170 to 450 characters, and 2 KiB is never reached below 70 partitions of offsets beyond a billion.
"""

import base64
from collections.abc import Mapping

from gateway.view.store import EVENT_TOPICS

Vector = dict[tuple[int, int], int]  # (place in EVENT_TOPICS, partition) -> offset of the next event to be told
MAX_CHARACTERS = 4096
_VERSION = 1


def vector_of(positions: Mapping[tuple[str, int], int]) -> Vector:
    """The event topics' part of what a view has read."""
    return {(EVENT_TOPICS.index(t), p): n for (t, p), n in positions.items() if t in EVENT_TOPICS}


def passed(vector: Vector, positions: Mapping[tuple[str, int], int]) -> bool:
    """Whether a view that has read so far has read all that lies behind the vector."""
    return all(positions.get((EVENT_TOPICS[topic], partition), 0) >= n for (topic, partition), n in vector.items())


def encode(vector: Vector) -> str:
    partitions = 1 + max((p for _, p in vector), default=-1)
    out = bytearray((_VERSION,))
    _put(out, partitions)
    for topic in range(len(EVENT_TOPICS)):
        for partition in range(partitions):
            _put(out, vector.get((topic, partition), 0))
    return base64.urlsafe_b64encode(out).decode().rstrip("=")


def decode(text: str) -> Vector:
    if len(text) > MAX_CHARACTERS or not text.isascii():
        raise ValueError("too long")
    raw = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    numbers = _numbers(raw[1:])
    if raw[:1] != bytes((_VERSION,)) or not numbers or len(numbers) != 1 + numbers[0] * len(EVENT_TOPICS):
        raise ValueError("not the positions of the event topics")
    partitions, rest = numbers[0], numbers[1:]
    return {(i // partitions, i % partitions): n for i, n in enumerate(rest)}


def _put(out: bytearray, number: int) -> None:
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def _numbers(raw: bytes) -> list[int]:
    numbers, number, shift = [], 0, 0
    for byte in raw:
        number |= (byte & 0x7F) << shift
        if number >> 63:
            raise ValueError("a position is out of range")
        shift += 7
        if not byte & 0x80:
            numbers.append(number)
            number = shift = 0
    if shift:
        raise ValueError("cut short")
    return numbers
