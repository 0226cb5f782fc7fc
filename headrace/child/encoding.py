"""A returned value as bytes to store: bytes as they are, text as UTF-8, anything else as JSON.

Called by `headrace.child.attempt`. Unencodable, in words and with the place, for what JSON or UTF-8 cannot hold: the
fast encoder writes `null` for NaN, repeats a key for `{1: …, "1": …}` and knows no integer beyond 64 bits. So it only
has the last word where none of this can be; otherwise every value is looked at, which takes five times as long or more.
"""

import dataclasses
import datetime
import enum
import math
import sys
import uuid
from collections.abc import Mapping
from typing import Any

import orjson

from headrace.contract.exact_json import MAX_INT_DIGITS, encode_json, pointer_segment
from headrace.contract.printable import printable
from headrace.errors import Permanent
from headrace.kinds import Kind

MAX_RESULT_DEPTH = 254  # levels of lists and objects: the fast encoder's own limit

_LEAVES = (datetime.datetime, datetime.date, datetime.time, uuid.UUID)  # the fast encoder writes them as text
_INT_LIMIT = 10**MAX_INT_DIGITS


class Unencodable(Permanent):
    """The returned value cannot be stored, and another attempt would return it again."""


def encode_result(value: Any, kind: Kind) -> tuple[bytes, str, str]:
    """(bytes, content type, suffix), the last two as the kind declares them. Unencodable names the place."""
    if isinstance(value, bytes | bytearray | memoryview):
        raw, content_type, suffix = bytes(value), "application/octet-stream", ".bin"
    elif isinstance(value, str):
        raw, content_type, suffix = _encode_text(value), "text/plain; charset=utf-8", ".txt"
    else:
        raw, content_type, suffix = _encode_json(value), "application/json", ".json"
    return raw, kind.content_type or content_type, kind.suffix or suffix


def _encode_text(value: str) -> bytes:
    try:
        return str.encode(value)
    except UnicodeEncodeError as e:
        raise Unencodable(
            f"the returned text holds the lone surrogate {value[e.start]!a} at character {e.start}, which UTF-8 cannot "
            "encode: return bytes, such as os.fsencode gives"
        ) from None


def _encode_json(value: Any) -> bytes:
    try:
        raw = orjson.dumps(value, default=_simpler, option=orjson.OPT_SERIALIZE_NUMPY)
        if b"null" not in raw:  # no None, hence no NaN either
            return raw
    except TypeError:
        pass  # said in better words below, unless it is only beyond the fast encoder
    try:
        return encode_json(_Plain().value(value))
    except Unencodable:
        raise
    except RecursionError:
        raise Unencodable(f"the returned value is nested more than {MAX_RESULT_DEPTH} levels deep") from None
    except Exception as e:
        raise Unencodable(f"the returned value cannot be stored as JSON: {type(e).__name__}: {e}") from e


def _simpler(value: Any) -> Any:
    """A value of simpler types for one that neither encoder knows; TypeError when there is none."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, set | frozenset):
        try:
            return sorted(value)
        except TypeError:
            return list(value)
    if isinstance(value, tuple):  # a named tuple
        return list(value)
    if hasattr(value, "dtype") and hasattr(value, "tolist"):  # an array that is not contiguous, a scalar of odd size
        found = value.tolist()
        if type(found) is not type(value):
            return found
    raise TypeError(
        f"a value of type {type(value).__name__}, which has no JSON form: return bytes, text or JSON values"
    )


def _is_json_leaf(value: Any) -> bool:
    """Whether it surely needs no change and no refusal: the quick answer for most parts of a large value."""
    kind = type(value)
    if kind is float:
        return math.isfinite(value)
    if kind is int:
        return -_INT_LIMIT < value < _INT_LIMIT  # type: ignore[no-any-return]
    return value is None or kind is bool or (kind is str and value.isascii())


class _Plain:
    """Turns a value into dicts, lists, text, numbers, booleans and None, or raises Unencodable."""

    def __init__(self) -> None:
        self._place: list[object] = []  # keys and indexes that lead to the current value

    def value(self, value: Any) -> Any:
        match value:
            case None | True | False:
                return value
            case enum.Enum():
                return self.value(value.value)
            case str():
                return self._text(value)
            case int():
                return self._int(value)
            case float():
                return self._float(value)
            case list() | tuple():
                return self._list(value)
            case dict():
                return self._dict(value)
        if isinstance(value, _LEAVES):
            return orjson.loads(orjson.dumps(value))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            names = [f.name for f in dataclasses.fields(value) if not f.name.startswith("_")]
            return self._dict({name: getattr(value, name) for name in names})
        if hasattr(value, "dtype") and (found := self._array(value)) is not None:
            return found
        return self._simpler(value)

    def _simpler(self, value: Any) -> Any:
        try:
            simpler = _simpler(value)
        except TypeError as e:
            raise self._refusal(str(e)) from None
        return self.value(simpler)

    def _text(self, value: str) -> str:
        try:
            str.encode(value)
        except UnicodeEncodeError as e:
            raise self._refusal(f"text with the lone surrogate {value[e.start]!a}, which UTF-8 cannot encode") from None
        return str.__str__(value)

    def _int(self, value: int) -> int:
        plain = int.__index__(value)
        if not -_INT_LIMIT < plain < _INT_LIMIT:
            raise self._refusal(f"an integer of more than {MAX_INT_DIGITS} digits: return it as text")
        return plain

    def _float(self, value: float) -> float:
        plain = float.__float__(value)
        if not math.isfinite(plain):
            raise self._refusal(f"{plain}, and JSON has no such number: return None or text in its place")
        return plain

    def _list(self, values: list[Any] | tuple[Any, ...]) -> list[Any]:
        self._check_depth()
        found = []
        for index, value in enumerate(values):  # no comprehension: it would be one more frame a level
            found.append(value if _is_json_leaf(value) else self._child(index, value))
        return found

    def _dict(self, values: Mapping[Any, Any]) -> dict[str, Any]:
        self._check_depth()
        found: dict[str, Any] = {}
        for key, value in values.items():
            text = key if type(key) is str else self._key(key)
            if text in found:
                keys = [k for k in values if k is key or (k == text if isinstance(k, str) else self._key(k) == text)]
                both = " and ".join(repr(k) for k in keys[:2])
                raise self._refusal(f"a dict whose keys {both} become the same JSON key")
            found[self._text(text)] = value if _is_json_leaf(value) else self._child(text, value)
        return found

    def _check_depth(self) -> None:
        if len(self._place) >= MAX_RESULT_DEPTH:
            raise Unencodable(
                f"the returned value is nested more than {MAX_RESULT_DEPTH} levels deep, or contains itself"
            )

    def _child(self, step: object, value: Any) -> Any:
        self._place.append(step)
        plain = self.value(value)
        self._place.pop()
        return plain

    def _key(self, key: Any) -> str:
        """The JSON key for a key that is no exact `str`, as the fast encoder writes it."""
        if type(key) is int:
            return str(self._int(key))
        if isinstance(key, enum.Enum):
            return self._key(key.value)
        if isinstance(key, str):
            return str.__str__(key)
        if hasattr(key, "dtype") and hasattr(key, "item"):
            key = key.item()
        if isinstance(key, float):
            return repr(self._float(key))
        if key is None or isinstance(key, bool):
            return encode_json(key).decode()
        if isinstance(key, int):
            return str(self._int(key))
        if isinstance(key, _LEAVES):
            return str(orjson.loads(orjson.dumps(key)))
        raise self._refusal(f"a dict with a key of type {type(key).__name__}: keys are text in JSON")

    def _array(self, value: Any) -> Any:
        """A NumPy array or scalar as lists and numbers, written with the digits of its own precision; None if odd."""
        if getattr(value.dtype, "kind", "") == "f":
            numpy: Any = sys.modules["numpy"]
            bad = numpy.argwhere(~numpy.isfinite(value))
            if len(bad):
                self._place += bad[0].tolist()
                self._float(float(value[tuple(bad[0])]))
        try:
            return orjson.loads(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))
        except TypeError:
            return None

    def _refusal(self, what: str) -> Unencodable:
        place = "".join(pointer_segment(step) for step in self._place)
        where = f"at {printable(place, 200)} " if place else ""
        return Unencodable(f"the returned value cannot be stored as JSON: {where}it holds {printable(what, 500)}")
