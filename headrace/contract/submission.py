"""What a person asks for: the JSON of POST /tasks, of `tasks.normal` and of `tasks.high`.

The gateway decodes it before it answers 202; a node's intake decodes it again, because Kafka producers bypass the
gateway. Undecodable for bytes that are not JSON; Invalid, which names the field, for a submission that breaks a rule.
"""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal

from headrace.contract.directory import check_directory
from headrace.contract.exact_json import parse_json, pointer_segment
from headrace.contract.records import DAMAGED_VALUE
from headrace.contract.timestamps import parse_rfc3339
from headrace.errors import Invalid, Undecodable

MAX_SUBMISSION_BYTES = 900_000  # leaves room for claim, ledger and headers below the broker's limit of a record
MAX_NAME_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Submission:
    """A checked submission. The record on Kafka keeps the bytes as they came."""

    name: str  # task kind
    payload: dict[str, Any]  # parameters, by the kind's schema
    directory: str  # below the results root
    timeout_s: float | None = None  # of one attempt; None = the kind's
    max_attempts: int | None = None  # None = the kind's
    expires_at: datetime | None = None  # the task does not start after it
    priority: Literal["normal", "high"] = "normal"

    @classmethod
    def decode(cls, raw: bytes | None, *, keep_unknown: bool = False) -> "Submission":
        """From JSON bytes. Undecodable when they are not JSON; Invalid names the field that breaks a rule or limit.

        With `keep_unknown`, fields that this version does not know are left alone instead of refused.
        """
        if raw is None:
            raise Undecodable("the record is empty: a submission is a JSON object", raw)
        if raw.startswith(DAMAGED_VALUE):
            why = raw.removeprefix(DAMAGED_VALUE).decode(errors="replace")
            raise Undecodable(f"Kafka's log is damaged there, only the record's key could be read: {why}", raw)
        if len(raw) > MAX_SUBMISSION_BYTES:
            raise Invalid(f"the submission has {len(raw)} bytes: {MAX_SUBMISSION_BYTES} at most")
        return cls.from_json(parse_json(raw), keep_unknown=keep_unknown)

    @classmethod
    def from_json(cls, found: object, *, keep_unknown: bool = False) -> "Submission":
        """From parsed JSON; Invalid names the field that breaks a rule."""
        if not isinstance(found, dict):
            raise Invalid("a submission is a JSON object with name, payload and directory")
        for field in found:
            if field not in _FIELDS and not keep_unknown:
                detail = f"unknown field {field[:100]!r}: the fields are {', '.join(_FIELDS)}"
                raise Invalid(detail, pointer_segment(field[:100]))
        name = found.get("name")
        if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_CHARACTERS or not name.isprintable():
            raise Invalid(f"name must be a task kind's name, 1 to {MAX_NAME_CHARACTERS} printable characters", "/name")
        payload = found.get("payload", {})
        if not isinstance(payload, dict):
            raise Invalid("payload must be a JSON object with the kind's parameters", "/payload")
        priority = found.get("priority", "normal")
        if priority not in ("normal", "high"):
            raise Invalid("priority must be 'normal' or 'high'", "/priority")
        return cls(
            name=name,
            payload=payload,
            directory=check_directory(found.get("directory")),
            timeout_s=_number(found, "timeout_s", 0.001, 30 * 86400.0),
            max_attempts=_count(found, "max_attempts", 1, 100),
            expires_at=_time(found, "expires_at"),
            priority=priority,
        )


_FIELDS = tuple(field.name for field in fields(Submission))


def _number(found: dict[str, Any], name: str, least: float, most: float) -> float | None:
    value = found.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise Invalid(f"{name} must be a number of seconds from {least:g} to {most:g}", f"/{name}")
    return float(value)


def _count(found: dict[str, Any], name: str, least: int, most: int) -> int | None:
    value = found.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Invalid(f"{name} must be a whole number from {least} to {most}", f"/{name}")
    return value


def _time(found: dict[str, Any], name: str) -> datetime | None:
    value = found.get(name)
    if value is None:
        return None
    try:
        return parse_rfc3339(value)
    except ValueError as e:
        raise Invalid(f"{name} {e}", f"/{name}") from None
