"""The limits of every number in a record, so that SQLite, JSON and dates can hold what a decoder lets through.

Decoders call `whole_number` for each number in a record's JSON. ValueError for a number that Headrace never writes.

The decoders of JSON check their fields by hand. msgspec 0.23 was measured: it decodes a heartbeat in 1.6 µs, not 9,
and names the path of the wrong field. But a node sends one heartbeat a second, the frequent messages are in headers,
which msgspec does not read, and it costs a dependency, 3 ms and 0.7 MB in every process, the forkserver included.
"""

MAX_INT64 = 2**63 - 1  # the largest integer of SQLite and of Java
MAX_TIME_MS = 253_402_300_799_999  # the last millisecond of the year 9999: `datetime` has no later one
MAX_ATTEMPTS = 10_000
MAX_FOREIGN_BYTES = 65_536  # of a producer's own headers: they are copied into each of the task's records


def whole_number(value: object, most: int = MAX_INT64, least: int = 0) -> int:
    """The value, if it is an integer from `least` to `most`. ValueError for anything else, booleans too."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{str(value)[:40]!r} is not a whole number from {least} to {most}")
    return value
