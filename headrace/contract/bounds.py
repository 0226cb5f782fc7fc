"""What a number in a record may be: within what SQLite, JSON and dates can hold, so that no reader fails on it later.

Decoders call `whole` for each number in a record's JSON; ValueError for all that no part of Headrace would write.
"""

MAX_INT64 = 2**63 - 1  # SQLite's, Java's, and JSON's in orjson
MAX_TIME_MS = 253_402_300_799_999  # the last millisecond of the year 9999: later ones are no dates
MAX_ATTEMPTS = 10_000
MAX_FOREIGN_BYTES = 65_536  # headers that travel along with a task: they are copied into each of its records


def whole_number(value: object, most: int = MAX_INT64, least: int = 0) -> int:
    """The value if it is a whole number from `least` to `most`; ValueError for any other, text and booleans too."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{str(value)[:40]!r} is not a whole number from {least} to {most}")
    return value
