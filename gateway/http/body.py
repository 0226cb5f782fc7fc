"""The bodies of requests: their type, their encoding, their size, and their lines.

`Content-Encoding: gzip` is unpacked as far as the limits allow, so that a small body cannot fill the memory. Problem
unsupported-media-type (415) for other types and encodings, too-large (413) beyond a limit, and bad-request for a body
that ends too early or is no gzip.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence

from starlette.requests import ClientDisconnect, Request

from headrace.contract.submission import MAX_SUBMISSION_BYTES

from .problems import Problem

# A body in lines may be this large when it is unpacked. Lines of a kilobyte: more than a batch may have.
MAX_UNPACKED_BYTES = 256 << 20
# Up to this size the gateway reads a body that is too large and discards it: closing a connection with unread bytes
# resets it, and the client would never see the 413.
_DRAINED_BYTES = 8 << 20
_TOO_LONG = MAX_SUBMISSION_BYTES + 1  # bytes of a line that are enough to refuse it
_PIECE_BYTES = 64 << 10
_GZIP = 31  # zlib's window bits for a gzip header and trailer


def too_large_problem() -> Problem:
    """For a submission beyond its limit."""
    return Problem(
        "too-large", f"a submission may have at most {MAX_SUBMISSION_BYTES} bytes", headers={"Connection": "close"}
    )


async def read_body(request: Request, *types: str) -> bytes:
    """The whole body, unpacked; Problem unless its Content-Type is one of `types` and a submission may be as large."""
    _check_type(request, types)
    decoder = _decoder_of(request)
    if _content_length(request) > _DRAINED_BYTES:
        raise too_large_problem()
    pieces, size, received = [], 0, 0
    async for raw in _received(request):
        received += len(raw)
        for piece in decoder.pieces(raw) if size <= MAX_SUBMISSION_BYTES else ():
            size += len(piece)
            if size > MAX_SUBMISSION_BYTES:
                break
            pieces.append(piece)
        if received > _DRAINED_BYTES:
            break
    if size > MAX_SUBMISSION_BYTES or received > _DRAINED_BYTES:
        raise too_large_problem()
    decoder.check_end()
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def read_lines(request: Request, *types: str) -> AsyncIterator[bytes]:
    """The lines of the body, unpacked; a line that is too long is cut to just over the limit of a submission."""
    _check_type(request, types)
    decoder = _decoder_of(request)
    rest, size = b"", 0
    async for raw in _received(request):
        for piece in decoder.pieces(raw):
            size += len(piece)
            if decoder.unpacks and size > MAX_UNPACKED_BYTES:
                raise Problem(
                    "too-large", f"the body unpacks to more than {MAX_UNPACKED_BYTES} bytes: send it in several batches"
                )
            lines = (rest + piece).split(b"\n")
            rest = lines.pop()
            for line in lines:
                yield line[:_TOO_LONG]
            if len(rest) > 2 * _TOO_LONG:
                rest = rest[:_TOO_LONG]
            if decoder.unpacks:
                await asyncio.sleep(0)  # one body must not hold up the others
    decoder.check_end()
    if rest:
        yield rest[:_TOO_LONG]


class _Plain:
    """A body that is not encoded."""

    unpacks = False

    def pieces(self, raw: bytes) -> Iterator[bytes]:
        yield raw

    def check_end(self) -> None: ...


class _Gzip(_Plain):
    """A body in gzip, of one member or several."""

    unpacks = True

    def __init__(self) -> None:
        self._unpacker = zlib.decompressobj(_GZIP)
        self._is_empty = True

    def pieces(self, raw: bytes) -> Iterator[bytes]:
        """What `raw` unpacks to, in pieces of a bounded size; Problem when it is no gzip."""
        while raw:
            if self._unpacker.eof:
                self._unpacker = zlib.decompressobj(_GZIP)
            self._is_empty = False
            try:
                piece = self._unpacker.decompress(raw, _PIECE_BYTES)
            except zlib.error as e:
                raise Problem("bad-request", f"the body is not gzip, as its Content-Encoding says: {e}") from None
            raw = self._unpacker.unused_data if self._unpacker.eof else self._unpacker.unconsumed_tail
            if piece:
                yield piece

    def check_end(self) -> None:
        """Problem when the last member is incomplete."""
        if not (self._is_empty or self._unpacker.eof):
            raise Problem("bad-request", "the body ends in the middle of its gzip data: send it again")


def _decoder_of(request: Request) -> _Plain:
    encodings = [e.strip().lower() for e in request.headers.get("content-encoding", "").split(",")]
    encodings = [e for e in encodings if e not in ("", "identity")]
    if not encodings:
        return _Plain()
    if encodings in (["gzip"], ["x-gzip"]):
        return _Gzip()
    raise Problem(
        "unsupported-media-type",
        f"the Content-Encoding is {', '.join(encodings)[:100]!r}: send gzip, or no encoding",
        headers={"Accept-Encoding": "gzip"},
    )


def _check_type(request: Request, allowed: Sequence[str]) -> None:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given not in allowed:
        problem = f"the Content-Type is {given[:100]!r}" if given else "the Content-Type is missing"
        raise Problem("unsupported-media-type", f"{problem}: send {allowed[0]}")


def _content_length(request: Request) -> int:
    text = request.headers.get("content-length", "0")
    return int(text) if text.isdigit() else 0


async def _received(request: Request) -> AsyncIterator[bytes]:
    try:
        async for piece in request.stream():
            yield piece
    except ClientDisconnect:
        raise Problem("bad-request", "the body ended before the declared length: send it again") from None
