"""The content type and the suffix of a file that a task returns, by its name.

Called by `headrace.child.attempt`. The table is Python's, without the machine's own additions in /etc, so that a file
has one type on every node. Cannot fail.
"""

import mimetypes
from pathlib import PurePath

from headrace.kind_rules import is_valid_suffix

_BINARY = "application/octet-stream"
_MORE = {  # what data files have, and Python's table lacks in some version
    ".7z": "application/x-7z-compressed",
    ".arrow": "application/vnd.apache.arrow.file",
    ".avif": "image/avif",
    ".geojson": "application/geo+json",
    ".ipynb": "application/x-ipynb+json",
    ".jsonl": "application/jsonl",
    ".log": "text/plain",
    ".md": "text/markdown",
    ".ndjson": "application/x-ndjson",
    ".parquet": "application/vnd.apache.parquet",
    ".toml": "application/toml",
    ".webp": "image/webp",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}
_COMPRESSED = {  # the bytes are of this type, whatever is inside
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "br": _BINARY,
    "compress": _BINARY,
    "zstd": "application/zstd",
}
_table = mimetypes.MimeTypes()
for _suffix, _type in _MORE.items():
    _table.add_type(_type, _suffix)
_table.encodings_map[".zst"] = "zstd"


def type_and_suffix(name: str) -> tuple[str, str]:
    """(content type, suffix) of a file of that name: `.csv`, `.tar.gz`; `.bin` for what can be no result's suffix."""
    suffixes = [s for s in PurePath(name).suffixes if len(s) > 1]
    if not suffixes or not is_valid_suffix(suffixes[-1]):
        return _BINARY, ".bin"
    content_type, encoding = _table.guess_type("x" + "".join(suffixes[-2:]))
    if encoding is None:
        return content_type or _BINARY, suffixes[-1]
    is_double = len(suffixes) > 1 and suffixes[-1].lower() in _table.encodings_map and is_valid_suffix(suffixes[-2])
    return _COMPRESSED.get(encoding, _BINARY), "".join(suffixes[-2:] if is_double else suffixes[-1:])
