"""The link between a node and one of its children: what each sends the other over a pair of sockets.

A frame is a JSON head and a body of bytes. Nothing is pickled in either direction, so that a node takes from a child
only numbers, text and bytes that it has checked: whatever a task does in its process, it can lie about its own result
and no more. Used by `headrace.child.main` in the child and by `agents.execution.child` in the node.
"""

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

INLINE_BYTES = 64 * 1024  # up to here a result comes back over the link, beyond in a file

_SIZES = struct.Struct("!II")  # of head and body, in bytes
_MOST_HEAD = 128 * 1024
_MOST_BODY = 8 * 1024 * 1024  # a payload, far above what Kafka takes
_READ_BYTES = 256 * 1024


class BrokenLink(Exception):
    """What has come is not a frame."""


@dataclass(frozen=True, slots=True)
class Request:
    """One attempt, as the node asks for it. Paths are the node's choice, in a directory of its own."""

    id: str
    attempt: int
    name: str
    payload: bytes  # JSON
    scratch: str  # made before the call, removed by the node after it
    result_file: str  # where a result above INLINE_BYTES goes
    output: str  # what the task prints: a named pipe, or a file
    memory_mb: int | None = None  # how much more memory than before it the attempt may take


@dataclass(frozen=True, slots=True)
class Begun:
    """The child has taken the attempt up: from now its death is the attempt's."""

    id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended in the child. `value` is None when the result is in `result_file`, or there is none."""

    ok: bool
    value: bytes | None = None
    content_type: str = ""
    suffix: str = ""
    invalid: bool = False  # the payload does not fit: trying again cannot help
    out_of_memory: bool = False
    error: str = ""  # last lines of the traceback


@dataclass(frozen=True, slots=True)
class DescribeKinds:
    """Asked for by the node, without `described`; the child's answer is what `headrace.child.attempt.describe_kinds`
    gives."""

    described: bytes = b""


Frame = Request | Begun | Ended | DescribeKinds
_BODIES = {Request: "payload", Begun: "", Ended: "value", DescribeKinds: "described"}
_TYPES: dict[str, type[Frame]] = {t.__name__: t for t in _BODIES}


def pack(frame: Frame) -> bytes:
    """A frame's bytes."""
    fields = {name: getattr(frame, name) for name in type(frame).__annotations__}
    body = fields.pop(_BODIES[type(frame)], b"")
    head = orjson.dumps([type(frame).__name__, body is not None, fields])
    return b"".join((_SIZES.pack(len(head), len(body or b"")), head, body or b""))


class Reader:
    """Makes frames of what a socket gives, however it is cut."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Each frame that is whole by now; BrokenLink when what has come is none."""
        self._rest += data
        while len(self._rest) >= _SIZES.size:
            head_size, body_size = _SIZES.unpack_from(self._rest)
            if head_size > _MOST_HEAD or body_size > _MOST_BODY:
                raise BrokenLink(f"a frame of {head_size} and {body_size} bytes")
            end = _SIZES.size + head_size + body_size
            if len(self._rest) < end:
                return
            head, body = bytes(self._rest[_SIZES.size : end - body_size]), bytes(self._rest[end - body_size : end])
            del self._rest[:end]
            yield _unpack(head, body)


def receive(link: socket.socket, reader: Reader) -> Iterator[Frame]:
    """Frames as they come, in the child, until the node closes its end."""
    while data := link.recv(_READ_BYTES):
        yield from reader.feed(data)


def _unpack(head: bytes, body: bytes) -> Frame:
    try:
        name, has_body, fields = orjson.loads(head)
        kind = _TYPES[name]
        if _BODIES[kind]:
            fields[_BODIES[kind]] = body if has_body else None
        frame = kind(**fields)
    except (ValueError, TypeError, KeyError) as e:
        raise BrokenLink(str(e)) from None
    for field, of in type(frame).__annotations__.items():
        _check(field, getattr(frame, field), of)
    return frame


def _check(field: str, value: Any, of: Any) -> None:
    if not isinstance(value, of) or (isinstance(value, bool) and of is not bool):
        raise BrokenLink(f"{field} is {type(value).__name__}")
