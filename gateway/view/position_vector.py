"""The event id on GET /events: the positions of all event partitions, so that any gateway can resume the stream.

Positions are written as varints (LEB128, as in Protocol Buffers) in base64. `decode` is the inverse of `encode`, and
raises ValueError for any other text. With 16 partitions an id has 170 to 450 characters; below 70 partitions it stays
under 2 KiB for offsets up to a billion.
"""

import base64
from collections.abc import Mapping

from .event_topics import EVENT_TOPICS

PositionVector = dict[tuple[int, int], int]  # (index in EVENT_TOPICS, partition) -> offset of the next event
MAX_CHARACTERS = 4096
_VERSION = 1


def vector_of(positions: Mapping[tuple[str, int], int]) -> PositionVector:
    """The positions of the event topics, from those of all topics that the view reads."""
    return {(EVENT_TOPICS.index(t), p): n for (t, p), n in positions.items() if t in EVENT_TOPICS}


def has_passed(vector: PositionVector, positions: Mapping[tuple[str, int], int]) -> bool:
    """Whether a view at these positions has read every record that the vector has passed."""
    return all(positions.get((EVENT_TOPICS[topic], partition), 0) >= n for (topic, partition), n in vector.items())


def encode(vector: PositionVector) -> str:
    """The vector as an event id."""
    partitions = 1 + max((p for _, p in vector), default=-1)
    out = bytearray((_VERSION,))
    _put_varint(out, partitions)
    for topic in range(len(EVENT_TOPICS)):
        for partition in range(partitions):
            _put_varint(out, vector.get((topic, partition), 0))
    return base64.urlsafe_b64encode(out).decode().rstrip("=")


def decode(text: str) -> PositionVector:
    """The vector of an event id; raises ValueError."""
    if len(text) > MAX_CHARACTERS or not text.isascii():
        raise ValueError("too long, or not ASCII")
    raw = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    numbers = _read_varints(raw[1:])
    if raw[:1] != bytes((_VERSION,)) or not numbers or len(numbers) != 1 + numbers[0] * len(EVENT_TOPICS):
        raise ValueError("not the positions of the event topics")
    partitions, rest = numbers[0], numbers[1:]
    return {(i // partitions, i % partitions): n for i, n in enumerate(rest)}


def _put_varint(out: bytearray, number: int) -> None:
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def _read_varints(raw: bytes) -> list[int]:
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
        raise ValueError("the last number is incomplete")
    return numbers
