"""The `format`s and patterns of announced schemas, checked exactly as pydantic reads them when the kind is called.

JSON Schema's own are another language: RFC 3339 demands a time zone that Python's datetime does not need, and ECMA's
`\\d` knows no digits of other scripts. A check that disagrees with pydantic refuses good payloads, or lets a task wait
that can only fail. Used by `payload_check`; a format that is not listed here says nothing about a payload.
"""

import ipaddress
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import cache
from re import Pattern
from typing import Any
from uuid import UUID

import orjson
from pydantic import (
    UUID1,
    UUID3,
    UUID4,
    UUID5,
    UUID6,
    UUID7,
    UUID8,
    AnyUrl,
    AwareDatetime,
    Base64Bytes,
    Base64UrlBytes,
    IPvAnyAddress,
    IPvAnyInterface,
    IPvAnyNetwork,
    Json,
    NaiveDatetime,
    TypeAdapter,
)
from pydantic_core import SchemaError, SchemaValidator, ValidationError, core_schema

# Key formats: pydantic reads numbers and truth values from the keys of an object, which are always text.
KEY_FORMATS: dict[str, tuple[type, str]] = {
    "integer-key": (int, "7"),
    "number-key": (float, "1.5"),
    "boolean-key": (bool, "true"),
}
_KEY_WORDS = {"integer-key": "a whole number", "number-key": "a number", "boolean-key": "true or false"}
# format -> (the Python type that pydantic makes of the text, an example)
_TYPES: dict[str, tuple[Any, str]] = {
    "date-time": (datetime, "2026-11-23T18:00:00Z"),
    "aware-date-time": (AwareDatetime, "2026-11-23T18:00:00Z"),
    "naive-date-time": (NaiveDatetime, "2026-11-23T18:00:00"),
    "date": (date, "2026-11-23"),
    "time": (time, "18:00:00"),
    "duration": (timedelta, "PT90S"),
    "decimal": (Decimal, "12.50"),
    "fraction": (Fraction, "1/3"),
    "complex": (complex, "1+2j"),
    "uuid": (UUID, "4fd1a0a4-6a31-4d2c-9e5c-2f1f0c0d8b11"),
    "uri": (AnyUrl, "https://example.org/"),
    "ipv4": (ipaddress.IPv4Address, "192.0.2.1"),
    "ipv6": (ipaddress.IPv6Address, "2001:db8::1"),
    "ipv4network": (ipaddress.IPv4Network, "192.0.2.0/24"),
    "ipv6network": (ipaddress.IPv6Network, "2001:db8::/32"),
    "ipv4interface": (ipaddress.IPv4Interface, "192.0.2.1/24"),
    "ipv6interface": (ipaddress.IPv6Interface, "2001:db8::1/32"),
    "ipvanyaddress": (IPvAnyAddress, "192.0.2.1"),
    "ipvanyinterface": (IPvAnyInterface, "192.0.2.1/24"),
    "ipvanynetwork": (IPvAnyNetwork, "192.0.2.0/24"),
    "base64": (Base64Bytes, "d2F0ZXI="),
    "base64url": (Base64UrlBytes, "d2F0ZXI="),
    "json": (Json, "[1, 2]"),
    "regex": (Pattern, "^a+$"),
    **{
        f"uuid{n}": (version, f"4fd1a0a4-6a31-{n}d2c-9e5c-2f1f0c0d8b11")
        for n, version in zip((1, 3, 4, 5, 6, 7, 8), (UUID1, UUID3, UUID4, UUID5, UUID6, UUID7, UUID8), strict=True)
    },
}
# Formats that any text has.
_ANY_TEXT = ("binary", "path", "password")
# What JSON Schema's own checks would refuse although some kind may take it. `email` gets the check below instead.
_NOT_CHECKED = (
    "idn-email",
    "hostname",
    "idn-hostname",
    "uri-reference",
    "iri",
    "iri-reference",
    "uri-template",
    "json-pointer",
    "relative-json-pointer",
)
EXACT_FORMATS = frozenset((*_TYPES, *_ANY_TEXT))  # the check says all that pydantic says


class PydanticPattern:
    """The keyword `pattern`, by the engine and the dialect that pydantic uses. One that it does not know passes."""

    def __init__(self, _parent: Any, value: Any, _path: Any) -> None:
        self._pattern = value
        # None for a pattern of Python's own `re`, which may run for ever: only the kind's process tries that.
        self._validator = SchemaValidator(core_schema.str_schema(pattern=value)) if is_known_pattern(value) else None

    def validate(self, instance: Any) -> None:
        """ValueError when the text does not match."""
        if (
            self._validator is not None
            and isinstance(instance, str)
            and not self._validator.isinstance_python(instance)
        ):
            raise ValueError(f"{instance[:200]!r} does not match the pattern {self._pattern!r}")


def is_known_pattern(pattern: str) -> bool:
    """Whether PydanticPattern can check it."""
    try:
        SchemaValidator(core_schema.str_schema(pattern=pattern))
    except SchemaError:
        return False
    return True


def described(name: str) -> str:
    """The format in words and an example, for error messages."""
    found = _TYPES.get(name) or KEY_FORMATS.get(name)
    example = found[1] if found else "name@example.org" if name == "email" else ""
    return _KEY_WORDS.get(name, f"a {name}") + (f", such as {example}" if example else "")


@cache
def format_checks() -> dict[str, Callable[[str], bool]]:
    """The checks by name, for jsonschema-rs."""
    checks = {name: _text_check(TypeAdapter(of)) for name, (of, _) in _TYPES.items()}
    checks |= {name: _key_check(TypeAdapter(dict[of, None])) for name, (of, _) in KEY_FORMATS.items()}  # type: ignore[valid-type]
    checks |= dict.fromkeys((*_ANY_TEXT, *_NOT_CHECKED), lambda _: True)
    # Less than pydantic's EmailStr asks for, which needs a package that only the kind's environment may have.
    return checks | {"email": lambda text: "@" in text[1:-1]}


def _text_check(adapter: TypeAdapter[Any]) -> Callable[[str], bool]:
    def is_valid(text: str) -> bool:
        try:
            adapter.validate_json(orjson.dumps(text), strict=True)
        except ValidationError:
            return False
        return True

    return is_valid


def _key_check(adapter: TypeAdapter[Any]) -> Callable[[str], bool]:
    def is_valid(text: str) -> bool:
        try:
            adapter.validate_json(orjson.dumps({text: None}), strict=True)
        except ValidationError:
            return False
        return True

    return is_valid
