"""Results as JSON: the fast encoder and the exact one agree, and what is stored reads as what was returned."""

import datetime
import enum
import math
from collections import OrderedDict
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import Context, task
from headrace.child.encoding import Unencodable, _Plain, encode_result
from headrace.contract.exact_json import parse_json
from headrace.kinds import _registry as registry
from headrace.kinds import forget_kinds


class Colour(enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.datetimes()
    | st.dates()
    | st.times()
    | st.uuids()
    | st.sampled_from([Colour.RED, Number.ONE])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner, max_size=4)
        | st.dictionaries(st.text(), inner, max_size=3).map(OrderedDict)
    ),
    max_leaves=20,
)
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.fixture(scope="module")
def kind() -> Any:
    @task(name="a-kind")
    def f(context: Context) -> None: ...

    yield registry["a-kind"]
    forget_kinds()


@settings(max_examples=500, deadline=None)
@given(VALUES)
def test_the_exact_encoder_says_what_the_fast_one_says(value: Any) -> None:
    assert _Plain().value(value) == orjson.loads(orjson.dumps(value))


KEYS = st.one_of(st.booleans(), st.integers(-(2**63), 2**64 - 1), st.dates(), st.uuids(), st.text())


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYS, st.integers(0, 3), max_size=5))
def test_the_exact_encoder_names_keys_as_the_fast_one_does(value: dict[Any, int]) -> None:
    fast = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    try:
        found = _Plain().value(value)
    except Unencodable:  # two keys become one text
        assert len(orjson.loads(fast)) < len(value)
    else:
        assert found == orjson.loads(fast)
        assert len(found) == len(value)


@settings(max_examples=500, deadline=None)
@given(value=JSON_VALUES)
def test_a_json_value_is_stored_as_it_is(kind: Any, value: Any) -> None:
    if isinstance(value, str):
        assert encode_result(value, kind)[0] == value.encode()
        return
    raw, content_type, suffix = encode_result(value, kind)
    assert parse_json(raw) == value
    assert (content_type, suffix) == ("application/json", ".json")


@settings(max_examples=200, deadline=None)
@given(value=VALUES, at=st.sampled_from([math.nan, math.inf, -math.inf]), depth=st.integers(0, 100))
def test_no_bad_number_gets_through_wherever_it_is(kind: Any, value: Any, at: float, depth: int) -> None:
    hidden: Any = at
    for n in range(depth):
        hidden = {"a": hidden, "b": value} if n % 2 else [value, hidden]
    with pytest.raises(Unencodable, match="JSON has no such number"):
        encode_result(hidden, kind)


@pytest.mark.parametrize(
    ("value", "raw", "suffix"),
    [
        (b"\x00", b"\x00", ".bin"),
        (bytearray(b"\x01"), b"\x01", ".bin"),
        (memoryview(b"\x02"), b"\x02", ".bin"),
        ("é", "é".encode(), ".txt"),
        (None, b"null", ".json"),
        (datetime.date(2024, 1, 2), b'"2024-01-02"', ".json"),
        ({3, 1}, b"[1,3]", ".json"),
        ({1, "a"}, None, ".json"),
    ],
)
def test_each_type_has_its_form(kind: Any, value: Any, raw: bytes | None, suffix: str) -> None:
    found = encode_result(value, kind)
    assert found[2] == suffix
    assert raw is None or found[0] == raw
