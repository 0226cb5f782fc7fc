"""What the announced schema takes, the kind takes, and the other way round: drawn types and payloads, named ones."""

import ipaddress
import json
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import make_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import orjson
import pydantic
import pydantic_core
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from headrace import Context, task
from headrace.contract.cluster import KindInfo
from headrace.contract.payload_check import PayloadCheck
from headrace.errors import Invalid
from headrace.kinds import Kind, forget_kinds
from headrace.kinds import _registry as registry

CONTEXT = Context("id", 1, Path("/nowhere"), lambda *_: None)
J = st.SearchStrategy[Any]


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Mixed(Enum):
    A = "a"
    B = 2
    C = 1.5


class Pair(NamedTuple):
    left: int
    right: str = ""


class Words(TypedDict):
    count: int


def kind_of(hint: Any) -> Kind:
    """A kind with one parameter, which returns what it gets."""

    def echo(v: Any) -> Any:
        return v

    echo.__annotations__["v"] = hint
    forget_kinds()
    task(echo)
    kind = registry["echo"]
    forget_kinds()
    return kind


def passes(kind: Kind, value: Any) -> bool:
    return not PayloadCheck(kind.info()).problems({"v": value})


def call(kind: Kind, value: Any) -> Any:
    return kind.call(json.dumps({"v": value}).encode(), CONTEXT)


def takes(kind: Kind, value: Any) -> bool:
    try:
        call(kind, value)
    except Invalid:
        return False
    return True


# --- drawn types and payloads

INTEGERS = st.sampled_from([0, 1, 2, -7, 2**53 + 1, 2**63, 1.0, -0.0, 1e5, 1e15, 2.5, True, None, "1"])
NUMBERS = st.sampled_from([0, 1, -1, 1.0, 0.1, -0.0, 1e300, 2**60, True, "1.5"])
TEXTS = st.sampled_from(["", "a", "abc", "red", "1", "٣", "é", "x y", "A1", "\n", 1, None])
TIMES = st.sampled_from(
    [
        "2020-02-20T00:00:00",
        "2020-02-20T00:00:00Z",
        "2020-02-20 00:00:00+01:00",
        "2020-02-30",
        "2020-02-29",
        "yesterday",
        "1700000000",
        1700000000,
        "10:00",
        "10:00:00Z",
        "24:00",
        "P1D",
        "PT1.5S",
        "-P1D",
        "1 day",
        "",
    ]
)
UUIDS = st.sampled_from(["4fd1a0a4-6a31-4d2c-9e5c-2f1f0c0d8b11", "4fd1a0a46a314d2c9e5c2f1f0c0d8b11", "nope", "", 1])
DECIMALS = st.sampled_from(["1.50", "1e5", "x", "NaN", "inf", " 1", "", 1, 1.5, 10**30, True])
URLS = st.sampled_from(["http://a", "HTTPS://a/b?c", "ftp://a", "nope", "http://", "", "mailto:x@y", " http://a", 1])
ADDRESSES = st.sampled_from(["192.0.2.1", "2001:db8::1", "192.0.2.0/24", "192.0.2.1/24", "x", "", "256.0.0.1"])
BASE64 = st.sampled_from(["d2F0ZXI=", "d2F0ZXI", "_-8=", "//8=", "x", "", "!!", 1])  # the fourth is not UTF-8
MEMBERS = st.sampled_from(["red", "blue", 1, 2, 2.0, 3, "a", 1.5, "1", None])

LEAVES: list[tuple[Any, J]] = [
    (int, INTEGERS),
    (Annotated[int, Field(ge=1, lt=100)], INTEGERS),
    (Annotated[int, Field(multiple_of=2)], INTEGERS),
    (pydantic.StrictInt, INTEGERS),
    (float, NUMBERS),
    (Annotated[float, Field(gt=0)], NUMBERS),
    (bool, st.sampled_from([True, False, 1, 0, "true", None])),
    (str, TEXTS),
    (Annotated[str, Field(min_length=1, max_length=3)], TEXTS),
    (Annotated[str, Field(pattern=r"^\w+$")], TEXTS),
    (Annotated[str, Field(pattern=r"^\D*$")], TEXTS),
    (Annotated[str, pydantic.StringConstraints(strip_whitespace=True, min_length=1)], TEXTS),
    (bytes, TEXTS),
    (datetime, TIMES),
    (pydantic.AwareDatetime, TIMES),
    (pydantic.NaiveDatetime, TIMES),
    (Annotated[datetime, Field(gt=datetime(2030, 1, 1))], TIMES),
    (date, TIMES),
    (pydantic.PastDate, TIMES),
    (time, TIMES),
    (timedelta, TIMES),
    (Annotated[timedelta, Field(gt=timedelta(0))], TIMES),
    (UUID, UUIDS),
    (pydantic.UUID4, UUIDS),
    (pydantic.UUID1, UUIDS),
    (Decimal, DECIMALS),
    (Annotated[Decimal, Field(max_digits=3, gt=1)], DECIMALS),
    (Fraction, st.sampled_from(["1/3", "x", 1, 1.5, "1/0", ""])),
    (complex, st.sampled_from(["1+2j", "x", 1, 1.5])),
    (pydantic.HttpUrl, URLS),
    (pydantic.AnyUrl, URLS),
    (pydantic.FtpUrl, URLS),
    (ipaddress.IPv4Address, ADDRESSES),
    (ipaddress.IPv6Address, ADDRESSES),
    (ipaddress.IPv4Network, ADDRESSES),
    (ipaddress.IPv4Interface, ADDRESSES),
    (pydantic.IPvAnyAddress, ADDRESSES),
    (pydantic.Base64Bytes, BASE64),
    (pydantic.Base64Str, BASE64),
    (pydantic.Base64UrlBytes, BASE64),
    (pydantic.Json, st.sampled_from(['{"a": 1}', "x", "", 1])),
    (pydantic.Json[int], st.sampled_from(["1", "1.0", "x", '"a"'])),
    (pydantic.SecretStr, TEXTS),
    (Path, TEXTS),
    (re.Pattern, st.sampled_from(["a+", "(", "", 1])),
    (Colour, MEMBERS),
    (Level, MEMBERS),
    (Mixed, MEMBERS),
    (Literal["a", 1, None], MEMBERS),
    (type(None), st.sampled_from([None, 0, "null"])),
    (Any, st.sampled_from([1, 1.0, "x", None, [1], {"a": [1]}])),
    (Pair, st.sampled_from([[1], [1, "x"], [1.0, "x"], [], ["x"], [1, "x", 2]])),
    (Words, st.sampled_from([{"count": 1}, {"count": 1.0}, {}, {"count": "1"}, {"count": 1, "more": 2}])),
]
ITEMS = [leaf for leaf in LEAVES if leaf[0] is not Words]  # what a set can hold
KEYS: list[tuple[Any, st.SearchStrategy[str]]] = [
    (int, st.sampled_from(["1", "1.0", "x", "", " 1", "1_0", "1e5"])),
    (float, st.sampled_from(["1", "1.5", "x", "nan"])),
    (bool, st.sampled_from(["true", "1", "yes", "x"])),
    (str, st.sampled_from(["", "a", "b"])),
    (date, st.sampled_from(["2020-02-20", "2020-02-30", "x"])),
    (UUID, st.sampled_from(["4fd1a0a4-6a31-4d2c-9e5c-2f1f0c0d8b11", "x"])),
    (Decimal, st.sampled_from(["1.5", "x", "NaN"])),
    (Colour, st.sampled_from(["red", "blue"])),
    (Level, st.sampled_from(["1", "x"])),
    (Literal["a", "b"], st.sampled_from(["a", "c"])),
    (Annotated[str, Field(pattern="^a")], st.sampled_from(["a", "b"])),
    (Annotated[str, Field(pattern="^a", min_length=2)], st.sampled_from(["a", "ab", "b"])),
    (Annotated[int, Field(gt=1)], st.sampled_from(["1", "2"])),
    (int | str, st.sampled_from(["1", "x"])),
    (tuple[int, int], st.sampled_from(["1", "x"])),
]
Typed = tuple[Any, J]


def some(values: J, most: int = 3) -> J:
    return st.lists(values, max_size=most)


def _model(first: Typed, second: Typed, extra: Literal["allow", "ignore", "forbid"]) -> Typed:
    fields: Any = {"cls": (first[0], ...), "default": ((second[0] | None), None)}
    model = pydantic.create_model("M", __config__=ConfigDict(extra=extra), **fields)
    values = st.fixed_dictionaries({"cls": first[1]}, optional={"default": second[1], "more": st.just(1)})
    return model, values | st.just({})


def _dataclass(first: Typed, second: Typed) -> Typed:
    made = make_dataclass("D", [("x", first[0]), ("y", second[0])])
    return made, st.fixed_dictionaries({"x": first[1], "y": second[1]}, optional={"z": st.just(1)})


def _wider(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    keys, two = st.sampled_from(KEYS), st.tuples(inner, inner)
    return st.one_of(
        inner.map(lambda t: (list[t[0]], some(t[1]))),  # type: ignore[name-defined]
        inner.map(lambda t: (Annotated[list[t[0]], Field(min_length=1, max_length=2)], some(t[1]))),  # type: ignore[name-defined]
        inner.map(lambda t: (Sequence[t[0]], some(t[1]))),  # type: ignore[name-defined]
        inner.map(lambda t: (deque[t[0]], some(t[1]))),  # type: ignore[name-defined]
        inner.map(lambda t: (tuple[t[0], ...], some(t[1]))),  # type: ignore[name-defined]
        st.sampled_from([t for t in LEAVES if t[0] not in (Words,)]).map(
            lambda t: (set[t[0]], some(t[1]).map(_without_repeats))
        ),  # type: ignore[name-defined]
        inner.map(lambda t: ((t[0] | None), t[1] | st.none())),
        two.map(lambda t: (tuple[t[0][0], t[1][0]], st.tuples(t[0][1], t[1][1]).map(list) | some(t[0][1]))),  # type: ignore[name-defined]
        two.map(lambda t: ((t[0][0] | None) | (t[1][0] | None), t[0][1] | t[1][1])),
        st.tuples(keys, inner).map(lambda t: (dict[t[0][0], t[1][0]], st.dictionaries(t[0][1], t[1][1], max_size=2))),  # type: ignore[name-defined]
        st.tuples(keys, inner).map(
            lambda t: (Mapping[t[0][0], t[1][0]], st.dictionaries(t[0][1], t[1][1], max_size=2))  # type: ignore[name-defined]
        ),
        st.tuples(inner, inner, st.sampled_from(["allow", "ignore", "forbid"])).map(lambda t: _model(*t)),
        two.map(lambda t: _dataclass(*t)),
    )


def _without_repeats(values: list[Any]) -> list[Any]:
    """JSON Schema's `uniqueItems` refuses repeats (1 and 1.0 are one number), which pydantic's sets merge."""

    def same(v: Any) -> str:
        return json.dumps(float(v) + 0.0 if type(v) in (int, float) and abs(v) < 2**53 else v)

    return list({same(v): v for v in values}.values())


TYPES = st.recursive(st.sampled_from(LEAVES), _wider, max_leaves=4)


@given(data=st.data())
@settings(deadline=None, max_examples=500, suppress_health_check=list(HealthCheck))
def test_schema_and_kind_agree_on_drawn_types(data: st.DataObject) -> None:
    hint, values = data.draw(TYPES)
    kind = kind_of(hint)
    for value in data.draw(st.lists(values, min_size=1, max_size=6)):
        passed, taken = passes(kind, value), takes(kind, value)
        if taken or not kind.info().checked_on_node:
            assert passed is taken, (hint, value, kind.info().schema)


# --- what a schema can say, and what it cannot

SAID: list[Any] = [
    *(int, float, bool, str, bytes, datetime, date, time, timedelta, UUID, Decimal, Fraction, complex, Path, None, Any),
    *(pydantic.AwareDatetime, pydantic.NaiveDatetime, pydantic.HttpUrl, pydantic.AnyUrl, pydantic.UUID4),
    *(ipaddress.IPv4Address, ipaddress.IPv6Network, pydantic.IPvAnyAddress, pydantic.Base64Bytes, pydantic.Json),
    *(Colour, Level, Mixed, Literal["a", 1], Pair, Words, int | str | None, pydantic.SecretStr),
    *(Annotated[int, Field(ge=1, multiple_of=3)], Annotated[str, Field(pattern=r"^\d+$", max_length=9)]),
    *(list[int], set[int], tuple[int, ...], tuple[int, str], Sequence[date], deque[int], Mapping[str, UUID]),
    *(dict[int, str], dict[bool, int], dict[Decimal, int], dict[date, int], dict[Colour, int], dict[Level, int]),
    dict[Annotated[str, Field(pattern="^a")], int],
]


class Checked(BaseModel):
    low: int
    high: int

    @pydantic.model_validator(mode="after")
    def _in_order(self) -> "Checked":
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


class Other:
    """A type with a reading of its own."""

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> Any:
        return pydantic_core.core_schema.no_info_plain_validator_function(
            lambda _: cls(), json_schema_input_schema=pydantic_core.core_schema.str_schema()
        )


def even(n: int) -> int:
    if n % 2:
        raise ValueError("odd")
    return n


NOT_SAID: list[Any] = [
    *(Annotated[int, pydantic.AfterValidator(even)], Annotated[int, pydantic.BeforeValidator(even)], Checked, Other),
    *(list[Checked], Checked | None, Annotated[pydantic.HttpUrl, pydantic.AfterValidator(lambda v: v)]),
    *(Annotated[Decimal, Field(max_digits=3)], Annotated[datetime, Field(gt=datetime(2030, 1, 1))], pydantic.PastDate),
    *(pydantic.FilePath, set[Any], pydantic.Json[int], pydantic.Base64Str, pydantic.Base64UrlStr),
    *(dict[Annotated[int, Field(gt=1)], int], dict[tuple[int, int], int]),
    Annotated[bytes, Field(max_length=3)],
    Annotated[str, pydantic.StringConstraints(strip_whitespace=True, min_length=1)],
]


@pytest.mark.parametrize("hint", SAID)
def test_a_type_that_a_schema_can_state_is_not_checked_again(hint: Any) -> None:
    assert not kind_of(hint).info().checked_on_node


@pytest.mark.parametrize("hint", NOT_SAID)
def test_a_kind_says_that_it_checks_more_on_its_node(hint: Any) -> None:
    assert kind_of(hint).info().checked_on_node


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (datetime, ["2020-02-20T00:00:00", "2020-02-20T00:00:00Z", "2020-02-20 10:00+01:00"], ["yesterday", "", 5]),
        (pydantic.AwareDatetime, ["2020-02-20T00:00:00Z"], ["2020-02-20T00:00:00"]),
        (pydantic.NaiveDatetime, ["2020-02-20T00:00:00"], ["2020-02-20T00:00:00Z"]),
        (date, ["2020-02-29"], ["2020-02-30", "2020-02-29T01:00:00"]),
        (time, ["10:00", "10:00:00Z"], ["25:00", "36000"]),
        (timedelta, ["P1D", "PT1.5S", "1 day", "01:00:00"], ["soon", "5"]),
        (UUID, ["4fd1a0a4-6a31-4d2c-9e5c-2f1f0c0d8b11", "4fd1a0a46a314d2c9e5c2f1f0c0d8b11"], ["nope"]),
        (Decimal, ["1.50", 1, 1.5, "1e5"], ["x", "NaN", True]),
        (pydantic.HttpUrl, ["http://a/b", "HTTPS://a"], ["nope", "ftp://a", "http://"]),
        (dict[int, str], [{"1": "a"}, {" 1 ": "a"}], [{"x": "a"}, {"": "a"}]),
        (dict[bool, str], [{"yes": "a"}], [{"x": "a"}]),
        (dict[Level, str], [{"1": "a"}], [{"3": "a"}]),
        (dict[Annotated[str, Field(pattern="^a")], int], [{"ab": 1}], [{"b": 1}]),
        (int | date, [1, 1.0, "2020-02-20"], ["1", "x", True]),
        (Annotated[str, Field(pattern=r"^\w+$")], ["é"], ["-"]),
        (Annotated[str, Field(pattern=r"^\D+$")], ["é"], ["٣"]),
        (int, [1.0, 1e5, -0.0, 2**70, 10**30], [1.5, True, "1", None]),
        (ipaddress.IPv4Network, ["192.0.2.0/24"], ["192.0.2.1/24", "x"]),
        (pydantic.Base64Bytes, ["d2F0ZXI="], ["d2F0Z"]),
    ],
)
def test_what_people_send_is_judged_before_it_waits(hint: Any, good: list[Any], bad: list[Any]) -> None:
    kind = kind_of(hint)
    assert [v for v in good if not (passes(kind, v) and takes(kind, v))] == []
    assert [v for v in bad if passes(kind, v) or takes(kind, v)] == []


def test_a_pattern_that_only_python_knows_is_left_to_the_kind() -> None:
    def echo(v: Looking) -> Any:
        return v.text

    forget_kinds()
    task(echo)
    kind = registry["echo"]
    assert kind.info().checked_on_node
    assert passes(kind, {"text": "b"})
    assert not takes(kind, {"text": "b"})


class Looking(BaseModel):
    model_config = ConfigDict(regex_engine="python-re")
    text: Annotated[str, Field(pattern="^(?=a)")]


# --- the Python values


@pytest.mark.parametrize(
    ("hint", "written", "expected"),
    [
        (int, "1.0", 1),
        (int, "1e5", 100_000),
        (int, "-0.0", 0),
        (int, "1e23", 10**23),
        (int, "9007199254740993.0", 2**53 + 1),
        (int, "123456789012345678901234567890", 123456789012345678901234567890),
        (float, "1", 1.0),
        (float, "-0.0", -0.0),
        (Any, "1.0", 1.0),
        (int | float, "1.0", 1.0),
        (float | int, "1", 1),
        (int | str, "1.0", 1),
        (bool | int, "true", True),
        (list[int] | list[str], "[1.0]", [1]),
        (list[int] | list[str], '["1"]', ["1"]),
        (dict[int, int], '{"1": 2.0}', {1: 2}),
        (Level, "2.0", Level.HIGH),
        (pydantic.StrictInt, "3.0", 3),
        (Decimal, "1.5", Decimal("1.5")),
        (set[int], "[1.0, 2]", {1, 2}),
        (tuple[int, float], "[1e0, 1]", (1, 1.0)),
    ],
)
def test_the_function_gets_the_type_of_its_hint(hint: Any, written: str, expected: Any) -> None:
    kind = kind_of(hint)
    assert not PayloadCheck(kind.info()).problems(orjson.loads(f'{{"v": {written}}}'))
    found = kind.call(f'{{"v": {written}}}'.encode(), CONTEXT)
    assert (repr(found), type(found)) == (repr(expected), type(expected))


def test_a_whole_number_written_as_a_fraction_is_an_int_at_any_depth_and_under_any_name() -> None:
    inner = pydantic.create_model("Inner", cls=(int, ...), default=(list[int], ...), fields=(dict[str, int], ...))
    kind = kind_of(list[inner])  # type: ignore[valid-type]
    [found] = call(kind, [{"cls": 1.0, "default": [2.0], "fields": {"a": 3.0}}])
    assert [type(n) for n in (found.cls, found.default[0], found.fields["a"])] == [int, int, int]


def test_text_that_looks_like_a_number_stays_as_it_is() -> None:
    kind = kind_of(tuple[int, str, str])
    assert call(kind, [1.0, "1e23", '\\"1e23\\" 9007199254740993.0']) == (1, "1e23", '\\"1e23\\" 9007199254740993.0')


# --- words


@pytest.mark.parametrize(
    ("hint", "value", "words"),
    [
        (date, "2020-02-30", ["2020-02-30", "date", "such as 2026-11-23"]),
        (dict[int, int], {"x": 1}, ['the key "x" is not a whole number, such as 7']),
        (int | date, "x", ["integer", "date", "; or "]),
        (Annotated[str, Field(pattern="^a$")], "b", ["'b'", "'^a$'"]),
    ],
)
def test_a_refusal_says_what_the_field_should_be(hint: Any, value: Any, words: list[str]) -> None:
    [problem] = PayloadCheck(kind_of(hint).info()).problems({"v": value})
    assert problem.pointer == "/payload/v"
    assert [w for w in words if w not in problem.detail] == []


def test_an_older_nodes_kind_counts_as_checked_on_its_node() -> None:
    info = kind_of(int).info()
    known = info.to_json()
    assert KindInfo.from_json(known) == info
    del known["checked_on_node"]
    assert KindInfo.from_json(known).checked_on_node
