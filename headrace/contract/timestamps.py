"""Times as people write and read them: RFC 3339. Everywhere else a time is milliseconds since the epoch, in UTC."""

from datetime import UTC, datetime


def parse_rfc3339(value: object) -> datetime:
    """The time in UTC. ValueError, whose message follows the field's name, for anything that is not such a time.

    Accepts every ISO 8601 form that `datetime.fromisoformat` accepts, as long as it has an offset.
    """
    try:
        found = datetime.fromisoformat(value)  # type: ignore[arg-type]  # TypeError is caught below
        if found.tzinfo is None:
            raise ValueError
        return found.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):  # OverflowError: in UTC it lies before year 1 or after year 9999
        raise ValueError("must be RFC 3339 with an offset, such as 2026-11-23T18:00:00Z") from None
