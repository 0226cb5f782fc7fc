"""Kafka records as messages see them, and the headers that messages share.

Messages decode from a `Record` and encode to an `Outgoing`; they never send themselves. Topic names have no prefix
here: `headrace.kafka` adds and removes the installation's. Undecodable for headers that break their rule.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, replace

from headrace.contract.bounds import MAX_INT64, MAX_MESSAGE_BYTES, MAX_RECORD_BYTES, MAX_TIME_MS, bounded_text
from headrace.errors import Undecodable

PROTOCOL_VERSION = 1  # of the messages between roles; readers ignore unknown fields and headers

# Headers that Headrace sets. All others are foreign (`traceparent`, …) and are copied to every record of the task.
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
        "redrive-of",
    }
)


_SOURCE = re.compile(r"([A-Za-z0-9._-]{1,249})/([0-9]{1,9})/([0-9]{1,19})", re.ASCII)


UNREADABLE_NAME = "\x1a"  # begins the substitute for a header name that is not UTF-8: Kafka accepts any bytes


# Begins the value of a record whose key alone could be read, because its batch in Kafka is damaged. No JSON begins so.
DAMAGED_VALUE = b"\x1adamaged: "


Headers = tuple[tuple[str, bytes], ...]
_MISSING = b"\0no such header"  # the object itself, and not its bytes, stands for a header that is missing


@dataclass(frozen=True, slots=True)
class Source:
    """Where a record is: topic, partition and offset."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @classmethod
    def parse(cls, text: str) -> "Source":
        """From `topic/partition/offset`; Undecodable for other text."""
        found = _SOURCE.fullmatch(text)
        if found is None or int(found[3]) > MAX_INT64:
            raise Undecodable(f"source {text[:80]!r} is not topic/partition/offset", text.encode(errors="replace"))
        return cls(found[1], int(found[2]), int(found[3]))


Place = tuple[str, int]  # topic without prefix, partition


class _Readable:
    """How the headers of a record are read; `raw` is the subclass's."""

    __slots__ = ()

    value: bytes | None

    def raw(self, name: str, default: bytes | None = None) -> bytes:
        raise NotImplementedError

    def text(self, name: str, default: str | None = None) -> str:
        """The last header of that name, at most MAX_TEXT_BYTES of it; Undecodable when it is missing or not UTF-8."""
        raw = self.raw(name, None if default is None else _MISSING)
        if raw is _MISSING and default is not None:
            return default
        try:
            return bounded_text(raw)
        except UnicodeDecodeError:
            raise Undecodable(f"header {name} is not UTF-8", raw) from None

    def number(self, name: str, default: int | None = None, most: int = MAX_INT64) -> int:
        """The header as a whole number from 0 to `most`; Undecodable for anything else."""
        raw = self.raw(name, None if default is None else _MISSING)
        if raw is _MISSING and default is not None:
            return default
        # int() would also accept signs, underscores and the digits of every script
        if not (raw.isdigit() and len(raw) <= 19 and int(raw) <= most):
            text = self.text(name)
            raise Undecodable(f"header {name} is {text[:40]!r}, not a whole number from 0 to {most}", self.value)
        return int(raw)

    def milliseconds(self, name: str, default: int | None = None) -> int:
        """The header as a time or a duration in ms."""
        return self.number(name, default, MAX_TIME_MS)


class HeadersByName(_Readable):
    """The headers of one record, found without a search: of several with one name, the last."""

    __slots__ = ("_found", "value")

    def __init__(self, found: dict[str, bytes], value: bytes | None) -> None:
        self._found, self.value = found, value

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def raw(self, name: str, default: bytes | None = None) -> bytes:
        found = self._found.get(name, default)
        if found is None:
            raise Undecodable(f"header {name} is missing", self.value)
        return found


@dataclass(frozen=True, slots=True)
class Record(_Readable):
    """One record read from Kafka. `timestamp_ms` is the time at which the broker appended it."""

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

    def raw(self, name: str, default: bytes | None = None) -> bytes:
        """The last header of that name; Undecodable when it is missing without a default."""
        for key, value in reversed(self.headers):
            if key == name:
                return value
        if default is None:
            raise Undecodable(f"header {name} is missing", self.value)
        return default

    def by_name(self) -> "HeadersByName":
        """Its headers for a reader of many of them."""
        return HeadersByName(dict(self.headers), self.value)

    def check_size(self) -> None:
        """Undecodable for a record too large to be from a role: what is made of it might fit into no other record."""
        size = _size(self.key, self.value, self.headers)
        if size > MAX_MESSAGE_BYTES:
            raise Undecodable(f"it has {size} bytes: {MAX_MESSAGE_BYTES} at most", self.value)

    @property
    def has_unreadable_name(self) -> bool:
        """Whether a header's name is not UTF-8. Some headers may be missing then."""
        names = [k for k, _ in self.headers]
        return UNREADABLE_NAME in "".join(names) and any(k.startswith(UNREADABLE_NAME) for k in names)

    @property
    def foreign_headers(self) -> Headers:
        """The headers that Headrace did not set."""
        return tuple((k, v) for k, v in self.headers if k not in OWN_HEADERS and v is not None)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One record to send. With `partition` -1 the partitioner chooses by key."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int = -1


def headers_of(values: Mapping[str, object], foreign: Iterable[tuple[str, bytes]] = ()) -> Headers:
    """Headers of the values that are not None, then the version, then the foreign ones."""
    own = tuple((k, v if isinstance(v, bytes) else str(v).encode()) for k, v in values.items() if v is not None)
    return (*own, ("version", str(PROTOCOL_VERSION).encode()), *foreign)


def size_of_headers(headers: Headers) -> int:
    """Bytes that the headers take in a record, with 16 for the framing of each."""
    return sum([len(k) + len(v) + 16 for k, v in headers])  # a list: called for every record


def shrink_to_fit(record: Outgoing) -> Outgoing:
    """The record; when it is too large, without its foreign headers; when that is not enough, without its value too.

    A producer's compressed batch may hold a submission too large for later records, and its task must still end.
    """
    if _size(record.key, record.value, record.headers) <= MAX_RECORD_BYTES:
        return record
    smaller = replace(record, headers=tuple((k, v) for k, v in record.headers if k in OWN_HEADERS))
    fits = _size(smaller.key, smaller.value, smaller.headers) <= MAX_RECORD_BYTES
    return smaller if fits else replace(smaller, value=b"")


def _size(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    return len(key or b"") + len(value or b"") + size_of_headers(headers)
