"""Compresses text or binary data with an algorithm of the standard library; the result is the compressed bytes.

{"name": "compression", "payload": {"text": "to be, or not to be", "algorithm": "lzma", "level": 6}, "directory": "d"}
{"name": "compression", "payload": {"data": "aGVhZHJhY2U=", "algorithm": "gzip"}, "directory": "demo"}
"""

import base64
import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field

from headrace import Context, task
from headrace.errors import Invalid

Algorithm = Literal["gzip", "bz2", "lzma", "zlib"]


# gzip gets no time stamp, so that the same input always gives the same bytes.
_COMPRESS: dict[Algorithm, Callable[[bytes, int], bytes]] = {
    "gzip": lambda raw, level: gzip.compress(raw, level, mtime=0),
    "bz2": lambda raw, level: bz2.compress(raw, max(1, level)),  # bz2 knows no level 0
    "lzma": lambda raw, level: lzma.compress(raw, preset=level),
    "zlib": lambda raw, level: zlib.compress(raw, level),
}


@task(timeout_s=600)
def compression(
    context: Context,
    text: Annotated[str | None, Field(description="text to compress, encoded as UTF-8")] = None,
    data: Annotated[str | None, Field(description="bytes to compress, in base64; give this or text")] = None,
    algorithm: Annotated[Algorithm, Field(description="algorithm of the standard library")] = "gzip",
    level: Annotated[int, Field(ge=0, le=9, description="0 = fast, 9 = small")] = 6,
) -> bytes:
    """Compresses `text` or base64 `data`; the result is the compressed bytes."""
    if (text is None) == (data is None):
        raise Invalid("give either text or data (base64), not both", "/payload")
    if text is not None:
        raw = text.encode()
    else:
        try:
            raw = base64.b64decode(data or "", validate=True)
        except ValueError as e:
            raise Invalid(f"data is not base64: {e}", "/payload/data") from None
    packed = _COMPRESS[algorithm](raw, level)
    context.progress(1.0, f"{len(raw)} bytes became {len(packed)} ({algorithm}, level {level})")
    return packed
