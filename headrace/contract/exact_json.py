"""JSON that keeps what was sent: every way in and out of Headrace parses and encodes people's values here.

Called for submissions (gateway, intake, command line, redrives) and for what kinds announce. The fast parser turns an
integer beyond 64 bits into a float without a word, takes the last of two equal keys and 1,024 levels of nesting, where
pydantic takes 200. So long numbers and escaped keys are parsed by the standard library, and depth is checked.

Undecodable for what is not JSON (NaN, lone surrogates and repeated keys included); Invalid, with a JSON Pointer, for
JSON beyond the limits.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any

import orjson

from headrace.contract.printable import printable
from headrace.errors import Invalid, Undecodable

MAX_DEPTH = 200  # levels of objects and lists in one document; pydantic's parser takes one more
_ORJSON_DEPTH = 254  # the deepest that orjson encodes
MAX_INT_DIGITS = 4300  # what Python and pydantic convert; beyond it the time grows with the square of the digits

_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * 19  # 2**63 has 19 digits: shorter integers fit the fast parser
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_TOKEN = re.compile(rb'"((?:[^"\\]|\\.)*)"|[\[\]{},:]', re.DOTALL)
_POINTER_SEGMENTS = 2  # enough to name the parameter: a whole pointer would have two hundred


def parse_json(raw: bytes) -> Any:
    """The value of a JSON text in UTF-8, integers exact. Undecodable or Invalid as the module says."""
    try:
        return _parse_exactly(raw) if _LONG_NUMBER in raw.translate(_DIGITS) else _parse_fast(raw)
    except RecursionError:
        raise _too_deep(raw) from None
    except ValueError as e:  # orjson's and the standard library's errors are ValueErrors
        if "depth limit" in str(e):
            raise _too_deep(raw) from None
        raise Undecodable(f"not JSON: {e}", raw) from None


def encode_json(value: Any, *, sort_keys: bool = False) -> bytes:
    """Compact JSON of a value that `parse_json` returned. TypeError or ValueError for what JSON cannot hold."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS if sort_keys else None)
    except TypeError:  # an integer beyond 64 bits
        return json.dumps(
            value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=sort_keys
        ).encode()


def pointer_segment(key: object) -> str:
    """One segment of a JSON Pointer, with its slash."""
    return "/" + str(key).replace("~", "~0").replace("/", "~1")


def _parse_fast(raw: bytes) -> Any:
    found = orjson.loads(raw)
    try:
        encoded = orjson.dumps(_wrapped(found) if _may_be_deep(raw) else found)
    except TypeError:
        raise _too_deep(raw) from None
    # Of two equal keys one reader of the record takes the first, another the last: they would run different tasks.
    # Each key has a colon, and without escapes encoding adds none: equal counts mean that no key was dropped.
    has_all_keys = b"\\u" not in raw and raw.count(b":") == encoded.count(b":")
    return found if has_all_keys else _parse_exactly(raw)


def _parse_exactly(raw: bytes) -> Any:
    too_long: list[_TooLong] = []
    found = json.loads(
        raw.decode(),  # from bytes the standard library would accept UTF-16 and UTF-32 too
        object_pairs_hook=_object,
        parse_int=_int_parser(too_long),
        parse_float=_parse_float,
        parse_constant=_refuse_constant,
    )
    if _may_be_deep(raw) and _is_too_deep(found):
        raise _too_deep(raw)
    if too_long:
        detail = f"an integer has {too_long[0].digits} digits: {MAX_INT_DIGITS} at most; send it as text"
        raise Invalid(detail, printable(_pointer_of(found, too_long[0])))  # a key may have half of a surrogate pair
    if _SURROGATE.search(raw):
        _check_surrogates(found)
    return found


def _check_surrogates(found: Any) -> None:
    try:
        encode_json(found)
    except UnicodeEncodeError:
        raise ValueError("a string has half of a surrogate pair, which is no character") from None


class _TooLong:
    """Stands for an integer that has too many digits, until its place is known."""

    def __init__(self, digits: int) -> None:
        self.digits = digits


def _int_parser(too_long: list[_TooLong]) -> Callable[[str], Any]:
    def parse_int(text: str) -> Any:
        if len(text) <= MAX_INT_DIGITS:
            return int(text)
        digits = len(text.lstrip("-"))
        if digits <= MAX_INT_DIGITS:
            return int(text)
        too_long.append(_TooLong(digits))
        return too_long[-1]

    return parse_int


def _parse_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is too large for a double")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} appears twice in one object")
    return found


def _pointer_of(value: Any, wanted: object) -> str:
    """The JSON Pointer of an object that is in `value`."""
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        pointer, at = waiting.pop()
        if at is wanted:
            return pointer
        if isinstance(at, dict | list):
            children = at.items() if isinstance(at, dict) else enumerate(at)
            waiting += [(pointer + pointer_segment(k), v) for k, v in children]
    return ""


def _may_be_deep(raw: bytes) -> bool:
    return raw.count(b"[") + raw.count(b"{") > MAX_DEPTH


def _wrapped(value: Any) -> Any:
    """The value inside so many lists that orjson cannot encode it if it is too deep: ten times as fast as to look."""
    for _ in range(_ORJSON_DEPTH - MAX_DEPTH):
        value = [value]
    return value


def _is_too_deep(found: Any) -> bool:
    """Whether its lists and objects have more than MAX_DEPTH levels; a level is looked at in one step."""
    depth, level = 1, [found]
    while level and depth <= MAX_DEPTH + 1:
        depth += 1
        level = [v for c in level for v in (c.values() if type(c) is dict else c) if type(v) is dict or type(v) is list]
    return depth > MAX_DEPTH + 1


def _too_deep(raw: bytes) -> Invalid:
    return Invalid(
        f"objects and lists are nested more than {MAX_DEPTH} levels deep, the outermost included",
        _pointer_too_deep(raw),
    )


def _unescaped(key: bytes) -> str:
    """A key as its reader sees it; as it is written where it cannot be read."""
    try:
        return printable(json.loads(b'"%b"' % key))
    except ValueError:
        return printable(key.decode(errors="replace"))


def _pointer_too_deep(raw: bytes) -> str:
    """The beginning of the JSON Pointer of what is too deep. Reads the text, which may be too deep to be parsed."""
    place: list[object] = []  # the current key or index of each level above the current one
    depth, key = 0, b""
    for token in _TOKEN.finditer(raw):
        text = token[0]
        if text in (b"[", b"{"):
            depth += 1
            if depth > MAX_DEPTH:
                break
            if depth <= _POINTER_SEGMENTS:
                place.append(0 if text == b"[" else "")
        elif text in (b"]", b"}"):
            if depth <= _POINTER_SEGMENTS and place:
                place.pop()
            depth -= 1
        elif depth <= _POINTER_SEGMENTS and place:
            if text == b":":
                place[-1] = _unescaped(key)
            elif text == b"," and isinstance(place[-1], int):
                place[-1] += 1
        key = token[1] or b""
    return "".join(pointer_segment(k) for k in place)
