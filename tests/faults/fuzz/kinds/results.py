"""Results of every form, and what is no result. Loaded in children alone, as a file."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from headrace import task


@task(timeout_s=60)
def echo(value: Any) -> Any:
    return value


class _Object:
    def __init__(self) -> None:
        self.a = 1


def _nest(depth: int) -> Any:
    found: Any = 1
    for _ in range(depth):
        found = [found]
    return found


def _circle() -> Any:
    found: list[Any] = []
    found.append(found)
    return found


_NO_JSON = {
    "nan": lambda: [float("nan"), float("inf")],
    "infinity": lambda: {"a": float("-inf")},
    "keys": lambda: {1: "a", "1": "b"},
    "none-key": lambda: {None: 1, "null": 2},
    "object": _Object,
    "objects": lambda: [1, _Object()],
    "class": lambda: _Object,
    "function": lambda: print,
    "deep": lambda: _nest(5000),
    "deeper-than-JSON": lambda: _nest(300),
    "circle": _circle,
    "long-integer": lambda: 10**5000,
    "generator": lambda: (n for n in range(3)),
    "surrogate": lambda: ["\udce9"],
    "surrogate-text": lambda: "\udce9",
    "complex": lambda: 1j,
}


@task(timeout_s=60)
def returns_no_json(what: str) -> Any:
    return _NO_JSON[what]()


class _Inner(BaseModel):
    at: datetime | None = None
    ids: list[UUID] = []
    wait: timedelta | None = None


@task(timeout_s=60)
def typed(
    number: int = 0,
    ratio: float = 0.0,
    day: date | None = None,
    price: Decimal | None = None,
    names: dict[int, str] | None = None,
    pair: tuple[int, str] | None = None,
    choice: Literal["a", "b"] | int | None = None,
    inner: _Inner | None = None,
    small: Annotated[int, Field(ge=0, le=10)] = 0,
) -> str:
    expected = (
        int,
        float,
        date | None,
        Decimal | None,
        dict | None,
        tuple | None,
        str | int | None,
        _Inner | None,
        int,
    )
    for value, kind in zip((number, ratio, day, price, names, pair, choice, inner, small), expected, strict=True):
        assert isinstance(value, kind), (value, kind)
    return "typed"


@task(timeout_s=60)
def returns_bytes(size: int, of: str) -> Any:
    raw = bytes(n % 251 for n in range(min(size, 251))) * (size // 251 + 1)
    return {"bytes": bytes, "bytearray": bytearray, "memoryview": memoryview}[of](raw[:size])


@dataclass
class _Point:
    x: int
    y: float


class _Colour(Enum):
    RED = "red"


_OBJECTS: dict[str, Any] = {
    "dataclass": _Point(1, 0.5),
    "model": _Inner(ids=[UUID(int=1)]),
    "enum": [_Colour.RED],
    "tuple": (1, (2, 3)),
    "set": {3, 1, 2},
    "date": date(2020, 2, 29),
    "uuid": {"id": UUID(int=1)},
    "integer keys": {1: "a", 2: "b"},
    "long integers": [2**64, -(2**70), {"n": 10**4000}],
    "zeros": [-0.0, 1e22, 5e-324],
    "nothing": None,
}


@task(timeout_s=60)
def returns_object(what: str) -> Any:
    return _OBJECTS[what]
