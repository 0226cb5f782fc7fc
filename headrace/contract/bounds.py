"""The limits of all that is copied from one record into others, into SQLite, JSON, dates or names of files.

Anybody with the right may write anything to a topic, and a compressed batch may hold a record that no producer's limit
lets through a second time. So decoders cut a text (`bounded_text`), and refuse a number (`whole_number`: ValueError)
or a record (`Record.check_size`: Undecodable) that Headrace never writes. What is made of a decoded record then always
fits into a record.

The decoders of JSON check their fields by hand. msgspec 0.23 was measured: it decodes a heartbeat in 1.6 µs, not 9,
and names the path of the wrong field. But a node sends one heartbeat a second, the frequent messages are in headers,
which msgspec does not read, and it costs a dependency, 3 ms and 0.7 MB in every process, the forkserver included.
"""

MAX_INT64 = 2**63 - 1  # the largest integer of SQLite and of Java
MAX_TIME_MS = 253_402_300_799_999  # the last millisecond of the year 9999: `datetime` has no later one
MAX_ATTEMPTS = 10_000
MAX_FOREIGN_BYTES = 65_536  # of a producer's own headers: they are copied into each of the task's records
MAX_TEXT_BYTES = 4096  # of a header that is text, such as an error, a kind's name or a node's
MAX_BOOT_CHARACTERS = 100  # of a boot id; ours have 36
MAX_MESSAGE_BYTES = 2_097_152  # the topics' max.message.bytes: no producer of a role sends a larger record
MAX_RECORD_BYTES = 2_000_000  # key, value and headers of a record that is made of another one


def whole_number(value: object, most: int = MAX_INT64, least: int = 0) -> int:
    """The value, if it is an integer from `least` to `most`. ValueError for anything else, booleans too."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{str(value)[:40]!r} is not a whole number from {least} to {most}")
    return value


def bounded_text(raw: bytes, most: int = MAX_TEXT_BYTES) -> str:
    """The text in UTF-8, at most `most` bytes of it and an ellipsis. UnicodeDecodeError when it is not UTF-8."""
    text = raw.decode()
    return text if len(raw) <= most else raw[:most].decode(errors="ignore") + "…"
