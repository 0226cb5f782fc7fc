"""The link between a node and one of its children: the frames that each sends the other over a pair of sockets.

The node sends a Request; the attempt's runner answers Begun, and the child answers Gone when the runner has ended. What
the runner has to say, Ended, goes to the child over a socket of that attempt alone, and to the node inside Gone.

A frame is a JSON head and a body of bytes. Nothing is pickled in either direction: the node takes only numbers, text
and bytes whose types it has checked, so a hostile task can lie about its own result and do no more. Used by
`headrace.child.main` in the child and by `agents.execution.child` in the node.
"""

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

INLINE_BYTES = 64 * 1024  # a result of up to this size comes back over the link, a larger one in a file

_SIZES = struct.Struct("!II")  # of head and body, in bytes
_MAX_HEAD_BYTES = 128 * 1024
_MAX_BODY_BYTES = 8 * 1024 * 1024  # a payload: far above the largest record that Kafka takes
_READ_BYTES = 256 * 1024


class BrokenLink(Exception):
    """The bytes received are not a valid frame."""


@dataclass(frozen=True, slots=True)
class Request:
    """One attempt that the node asks for. The node chooses the paths, in a directory of its own."""

    id: str
    attempt: int
    name: str
    payload: bytes  # JSON
    scratch: str  # a directory that the node makes before the attempt and removes after it
    result_file: str  # where a result larger than INLINE_BYTES goes
    output: str  # a named pipe or a file for what the task prints
    memory_mb: int | None = None  # MiB that the attempt may take beyond what the process has before it


@dataclass(frozen=True, slots=True)
class Begun:
    """The attempt's runner is about to call the function: from now on its death is the attempt's."""

    id: str
    attempt: int
    pid: int  # of the runner, which sends this; the child's own where it runs the attempt itself
    memory_before: int = 0  # bytes that the child took before it forked the runner; 0 where no kind limits memory


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended in the child. `value` is None when the result is in `result_file`, or when it failed."""

    ok: bool
    value: bytes | None = None
    content_type: str = ""
    suffix: str = ""
    invalid: bool = False  # the payload does not match the kind's schema: a retry cannot help
    permanent: bool = False  # the result cannot be stored: a retry cannot help either
    out_of_memory: bool = False
    error: str = ""  # last lines of the traceback


@dataclass(frozen=True, slots=True)
class Gone:
    """The attempt's runner has ended, and nothing that it started is alive."""

    id: str
    attempt: int
    exit_code: int = 0  # negative for signals
    answer: bytes | None = None  # the packed `Ended` that the runner sent; None when it sent none
    fork_error: str = ""  # why no runner could be started
    took_s: float = 0.0  # by the child's own clock, from the request on: making and ending the process included
    left_behind: str = ""  # what has kept its process from being reused, although its kind asks for that


@dataclass(frozen=True, slots=True)
class DescribeKinds:
    """Sent by the node with `described` empty; the child answers with what `describe_kinds` returns."""

    described: bytes = b""


Frame = Request | Begun | Ended | Gone | DescribeKinds
_BODIES = {  # the field that is the body
    Request: "payload",
    Begun: "",
    Ended: "value",
    Gone: "answer",
    DescribeKinds: "described",
}
_TYPES: dict[str, type[Frame]] = {t.__name__: t for t in _BODIES}


def pack_frame(frame: Frame) -> bytes:
    """The frame as bytes to send."""
    fields = {name: getattr(frame, name) for name in type(frame).__annotations__}
    body = fields.pop(_BODIES[type(frame)], b"")
    head = orjson.dumps([type(frame).__name__, body is not None, fields])
    return b"".join((_SIZES.pack(len(head), len(body or b"")), head, body or b""))


def unpack_answer(answer: bytes) -> Ended:
    """The only frame in these bytes, which a task may have forged; BrokenLink when it is not a whole `Ended`."""
    frames = list(FrameReader().feed(answer))
    if len(frames) != 1 or not isinstance(frames[0], Ended):
        raise BrokenLink("it is not one whole frame of the type Ended")
    return frames[0]


class FrameReader:
    """Assembles frames from the bytes of a socket, wherever they are cut."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yields each frame that is complete with `data`; BrokenLink for bytes that are not a valid frame."""
        self._rest += data
        while len(self._rest) >= _SIZES.size:
            head_size, body_size = _SIZES.unpack_from(self._rest)
            if head_size > _MAX_HEAD_BYTES or body_size > _MAX_BODY_BYTES:
                raise BrokenLink(f"a frame with a head of {head_size} and a body of {body_size} bytes is too large")
            end = _SIZES.size + head_size + body_size
            if len(self._rest) < end:
                return
            head, body = bytes(self._rest[_SIZES.size : end - body_size]), bytes(self._rest[end - body_size : end])
            del self._rest[:end]
            yield _unpack_frame(head, body)


def receive_frames(link: socket.socket, reader: FrameReader) -> Iterator[Frame]:
    """In the child: yields frames as they arrive, until the node closes its end."""
    while data := link.recv(_READ_BYTES):
        yield from reader.feed(data)


def check_types(fields: Any) -> None:
    """TypeError when a field of the dataclass instance has another type than its annotation.

    Shared with `headrace.child.notifications`. msgspec would check while it decodes. Measured with msgspec 0.23 on
    Python 3.11: it saves 6 to 10 µs a frame, some 15 µs of the 480 µs of CPU that a node spends on a tiny attempt, and
    these lines; it costs a dependency, 3 ms of a node's start and 0.6 MB in the forkserver. That is no clear gain.
    """
    for name, annotation in type(fields).__annotations__.items():
        value = getattr(fields, name)
        if not isinstance(value, annotation) or (isinstance(value, bool) and annotation is not bool):
            raise TypeError(f"{name} is {type(value).__name__}")


def _unpack_frame(head: bytes, body: bytes) -> Frame:
    try:
        name, has_body, fields = orjson.loads(head)
        frame_type = _TYPES[name]
        if _BODIES[frame_type]:
            fields[_BODIES[frame_type]] = body if has_body else None
        frame = frame_type(**fields)
        check_types(frame)
    except (ValueError, TypeError, KeyError) as e:
        raise BrokenLink(str(e)) from None
    return frame
