"""A Kafka record as the messages see it, and the headers they share.

Messages decode from a `Record` and encode to an `Outgoing`; neither ever sends itself.
Topic names here are the contract's, without the installation's prefix.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, replace

from headrace.contract.bounds import MAX_INT64, MAX_TIME_MS
from headrace.errors import Undecodable

PROTOCOL_VERSION = 1  # of the messages between roles; readers ignore fields and headers they do not know

# Headers that Headrace itself sets. Whatever else a producer sends (`traceparent`, …) travels along to the end.
# `redrive-of` is among those: it belongs to the submission.
OWN_HEADERS = frozenset(
    {
        "attempt",
        "attempts",
        "ledger",
        "name",
        "directory",
        "node",
        "boot",
        "via",
        "source",
        "submitted-ms",
        "outcome",
        "reason",
        "error",
        "file",
        "bytes",
        "sha256",
        "content-type",
        "suffix",
        "chunk",
        "chunks",
        "queued-ms",
        "duration-ms",
        "started-ms",
        "outcome-offset",
        "generation",
        "why",
        "members",
        "by",
        "for",
        "phase",
        "version",
        "priority",
        "log",
    }
)


_SOURCE = re.compile(r"([A-Za-z0-9._-]{1,249})/([0-9]{1,9})/([0-9]{1,19})", re.ASCII)


UNREADABLE_NAME = "\x1a"  # begins the name of a header whose own name is no UTF-8: Kafka takes any bytes


MAX_RECORD_BYTES = 2_000_000  # of a record with its headers; a little below the topics' limit

Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Source:
    """The place of a record in the log: topic, partition, offset."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @classmethod
    def parse(cls, text: str) -> "Source":
        found = _SOURCE.fullmatch(text)
        if found is None or int(found[3]) > MAX_INT64:
            raise Undecodable(f"source {text[:80]!r} is not topic/partition/offset", text.encode(errors="replace"))
        return cls(found[1], int(found[2]), int(found[3]))


Place = tuple[str, int]  # topic without prefix, partition


@dataclass(frozen=True, slots=True)
class Record:
    """One record read from Kafka. `timestamp_ms` is the broker's (LogAppendTime)."""

    topic: str
    partition: int
    offset: int
    _: KW_ONLY
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    @property
    def source(self) -> Source:
        return Source(self.topic, self.partition, self.offset)

    def text(self, name: str, default: str | None = None) -> str:
        """The last header of that name as text; Undecodable if it is missing (and has no default) or no UTF-8."""
        for key, value in reversed(self.headers):
            if key == name:
                try:
                    return value.decode()
                except UnicodeDecodeError:
                    raise Undecodable(f"header {name} is no UTF-8", value) from None
        if default is None:
            raise Undecodable(f"header {name} is missing", self.value)
        return default

    def number(self, name: str, default: int | None = None, most: int = MAX_INT64) -> int:
        """The header as a whole number from 0 to `most`."""
        text = self.text(name, None if default is None else str(default))
        # isascii: int() would take digits of any script, and underscores and signs besides
        if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= most):
            raise Undecodable(f"header {name} is {text[:40]!r}, not a whole number from 0 to {most}", self.value)
        return int(text)

    def milliseconds(self, name: str, default: int | None = None) -> int:
        """The header as a moment or a duration in milliseconds."""
        return self.number(name, default, MAX_TIME_MS)

    @property
    def has_unreadable_name(self) -> bool:
        """Whether a header's name is no UTF-8; then not all of the headers may be here."""
        return any(k.startswith(UNREADABLE_NAME) for k, _ in self.headers)

    @property
    def foreign_headers(self) -> Headers:
        return tuple((k, v) for k, v in self.headers if k not in OWN_HEADERS and v is not None)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One record to be sent. `partition` -1 lets the partitioner choose by key."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int = -1


def headers_of(values: Mapping[str, object], foreign: Iterable[tuple[str, bytes]] = ()) -> Headers:
    """Headers from plain values, those that are None left out, then the version, the foreign ones after our own."""
    own = tuple((k, v if isinstance(v, bytes) else str(v).encode()) for k, v in values.items() if v is not None)
    return (*own, ("version", str(PROTOCOL_VERSION).encode()), *foreign)


def shrink_to_fit(record: Outgoing) -> Outgoing:
    """The record without its foreign headers, or without its value too, when it is too large: it must be sent at all.

    A compressed batch may bring a submission that is larger than any record which carries it on could be.
    """
    if _size(record) <= MAX_RECORD_BYTES:
        return record
    smaller = replace(record, headers=tuple((k, v) for k, v in record.headers if k in OWN_HEADERS))
    return smaller if _size(smaller) <= MAX_RECORD_BYTES else replace(smaller, value=b"")


def _size(record: Outgoing) -> int:
    return len(record.value or b"") + sum(len(k) + len(v) for k, v in record.headers)
