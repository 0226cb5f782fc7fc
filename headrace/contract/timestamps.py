"""Times as people write and read them: RFC 3339. Everywhere else a time is milliseconds since the epoch, in UTC."""

from datetime import UTC, datetime


def parse_rfc3339(value: object) -> datetime:
    """The time in UTC. ValueError for anything else; its message is meant to follow the field's name.

    Accepts every ISO 8601 form that `datetime.fromisoformat` accepts, as long as it has an offset.
    """
    try:
        found = datetime.fromisoformat(value)  # type: ignore[arg-type]  # TypeError is caught below
        if found.tzinfo is None:
            raise ValueError
        return found.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):  # OverflowError: in UTC it is before year 1 or after year 9999
        raise ValueError("must be RFC 3339 with an offset, such as 2026-11-23T18:00:00Z") from None


def format_rfc3339(ms: int) -> str:
    """Milliseconds since the epoch as RFC 3339 in UTC; ValueError or OverflowError beyond the years 1 to 9999."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
