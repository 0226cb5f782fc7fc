"""JSON texts for payloads: mostly odd ones, and what they stand for."""

import json
import random
from typing import Any

MAX_DEPTH = 200  # of a payload, by the contract; nearer than _ABOUT to it, the wrapping decides
_ABOUT = 5
_MAX_DIGITS = 4300  # of an integer that every Python can read

_INTEGERS = [0, -1, 2**31, 2**53 + 1, -(2**63), 2**63, 2**64 - 1, 2**64, -(2**63) - 1, 2**70, 10**300]
_FLOATS = [0.1, -0.0, 1.0, 1e5, 1e22, 1.7976931348623157e308, 5e-324, -1.5e-10, 123456789.123]
_STRINGS = [
    "",
    "a",
    "é",
    "e\u0301",
    "\U0001f600",
    "\x00",
    "\u2028",
    '"\\/',
    "x" * 5000,
    "null",
    "NaN",
    "1",
    "\x7f",
    "\ufeff",
]


def draw_value(rng: random.Random, depth: int = 3) -> Any:
    """A value that JSON holds exactly."""
    lot = rng.random()
    if depth and lot < 0.25:
        return [draw_value(rng, depth - 1) for _ in range(rng.randrange(5))]
    if depth and lot < 0.5:
        keys = [rng.choice([*_STRINGS, "a/b", "~0", "name", "payload"]) for _ in range(rng.randrange(5))]
        return {key: draw_value(rng, depth - 1) for key in keys}
    if lot < 0.7:
        return rng.choice(_INTEGERS)
    if lot < 0.8:
        return rng.choice(_FLOATS)
    return rng.choice([*_STRINGS, None, True, False])


def nested(rng: random.Random, inner: str, depth: int) -> str:
    """The text `inner` inside that many arrays or objects."""
    if rng.random() < 0.5:
        return "[" * depth + inner + "]" * depth
    return '{"a":' * depth + inner + "}" * depth


def draw_text(rng: random.Random) -> tuple[str, bool]:
    """(JSON text, whether it is plain: it must be taken, and come back exactly as it is)."""
    text = json.dumps(draw_value(rng), ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, None, 1]))
    lot = rng.random()
    if lot < 0.5:
        return text, True
    if lot < 0.7:
        depth = rng.choice(
            [20, 100, MAX_DEPTH - 10, MAX_DEPTH, MAX_DEPTH + 1, 254, 255, 300, 1024, 1025, 5000, 100_000]
        )
        return nested(rng, "1", depth), depth < MAX_DEPTH - _ABOUT
    if lot < 0.8:
        digits = rng.choice([100, 1000, _MAX_DIGITS, _MAX_DIGITS + 1, 20_000])
        return rng.choice(["", "-"]) + "9" * digits, False
    if lot < 0.9:
        return f"[{text}, {rng.choice(['1.0', '1E5', '-0', '1e-7', '0.10', '123e2'])}]", True
    odd = [
        "NaN",
        "[Infinity]",
        "-Infinity",
        '"\\ud800"',
        '{"\\ud800": 1}',
        '{"a": 1, "a": 2}',
        '{"a": 1, "\\u0061": 2}',
    ]
    return rng.choice([*odd, "1e400", "-1e999", "01", "1.", "[1,]", '"\t"', "'a'", "\ufeff1", "// x"]), False


def same(one: Any, other: Any) -> bool:
    """Whether two parsed values are equal, kind of number and order of keys included."""
    return json.dumps(one) == json.dumps(other)
