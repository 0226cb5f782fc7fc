"""JSON as every way in parses it: exact, or refused in words with the place."""

from typing import Any

import pytest

from headrace.contract.exact_json import MAX_DEPTH, MAX_INT_DIGITS, encode_json, parse_json
from headrace.errors import Invalid, Undecodable


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize(
    "number",
    [2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 2**70, -(2**70), 10**400, 10**MAX_INT_DIGITS - 1],
)
def test_integers_are_exact_at_every_size(number: int) -> None:
    raw = encode_json({"a": [number]})
    assert parse_json(raw) == {"a": [number]}
    assert type(parse_json(raw)["a"][0]) is int
    assert encode_json(parse_json(raw)) == raw


@pytest.mark.parametrize("text", ["0.1", "-0.0", "1e5", "123456789012345678901234567890.5", "1e-400"])
def test_other_numbers_are_doubles(text: str) -> None:
    assert parse_json(text.encode()) == float(text)


@pytest.mark.parametrize(("sign", "digits"), [("", MAX_INT_DIGITS + 1), ("-", MAX_INT_DIGITS + 1), ("", 800_000)])
def test_an_integer_of_too_many_digits_is_refused_with_its_place(sign: str, digits: int) -> None:
    raw = f'{{"payload": {{"a/b": [1, {sign}{"9" * digits}]}}}}'.encode()
    with pytest.raises(Invalid, match=f"{digits} digits: {MAX_INT_DIGITS} at most") as caught:
        parse_json(raw)
    assert caught.value.pointer == "/payload/a~1b/1"


def test_a_minus_sign_is_no_digit() -> None:
    assert parse_json(b"-" + b"9" * MAX_INT_DIGITS) == -(10**MAX_INT_DIGITS) + 1


@pytest.mark.parametrize("escaped", [False, True])
@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 254, 255, 1023, 1100, 100_000])
def test_what_is_nested_too_deep_is_refused_with_its_field(levels: int, escaped: bool) -> None:
    more = b'"s": "\\u0061[[[", ' if escaped else b'"s": "[[[{{{", '
    raw = b'{"payload": {' + more + b'"ok": [{}, {}], "deep~er": ' + nested(levels - 2) + b"}}"
    with pytest.raises(Invalid, match=f"more than {MAX_DEPTH} levels deep") as caught:
        parse_json(raw)
    assert caught.value.pointer == "/payload/deep~0er"


@pytest.mark.parametrize(
    ("key", "value", "segment"),
    [
        (b"\\u0061", nested(300), "a"),
        (b"\\u0061", b"9" * 5000, "a"),
        (b"\\ud800", nested(5000) + b",", "\\ud800"),
        (b"\\ud800", b"9" * 5000, "\\ud800"),
        (b"\x7f", nested(300), "\\x7f"),
        (b'\\"[', nested(300), '"['),
    ],
)
def test_a_pointer_can_be_sent_and_shown_whatever_the_key_is(key: bytes, value: bytes, segment: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_json(b'{"payload": {"n": 99999999999999999999, "' + key + b'": ' + value + b"}}")
    assert caught.value.pointer == f"/payload/{segment}"


def test_the_pointer_names_the_item_of_a_list() -> None:
    with pytest.raises(Invalid) as caught:
        parse_json(b"[1, [2, [[3], 4], " + nested(MAX_DEPTH) + b"]]")
    assert caught.value.pointer == "/1/2"


@pytest.mark.parametrize("prefix", [b"", b'"\\u0061",', b"99999999999999999999,"])
def test_the_deepest_that_is_allowed_is_parsed(prefix: bytes) -> None:
    assert parse_json(b"[" + prefix + nested(MAX_DEPTH - 1) + b"]")


def test_many_brackets_are_not_deep() -> None:
    assert len(parse_json(b"[" + b",".join([b"[]"] * 1000) + b"]")) == 1000


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[1,]",
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1e400",
        b"99999999999999999999e400",
        b"[99999999999999999999, NaN]",
        b"[99999999999999999999, Infinity]",
        b'["\\ud800"]',
        b'["\\udc80", 99999999999999999999]',
        b'{"\\ud800": 99999999999999999999}',
        b'"\xff"',
        b'["\xed\xa0\x80", 99999999999999999999]',
        b"\xef\xbb\xbf[99999999999999999999]",
        "[99999999999999999999]".encode("utf-16"),
        b'["a\x01", 99999999999999999999]',
        b'{"a": 1, "a": 2}',
        b'{"a": 1, "\\u0061": 2}',
        b'{"a": 99999999999999999999, "a": 2}',
        b"099999999999999999999",
    ],
)
def test_what_is_no_json_is_undecodable(raw: bytes) -> None:
    with pytest.raises(Undecodable, match="not JSON: ") as caught:
        parse_json(raw)
    assert caught.value.raw == raw


def test_a_repeated_key_is_named() -> None:
    with pytest.raises(Undecodable, match="the key 'n' appears twice"):
        parse_json(b'{"payload": {"n": 1, "n": 2}}')


@pytest.mark.parametrize("value", [{"b": 2**70, "a": "é"}, {"b": 1, "a": "é"}])
def test_sorted_keys_give_the_same_bytes_whatever_the_order(value: dict[str, Any]) -> None:
    backwards = dict(reversed(value.items()))
    assert encode_json(value, sort_keys=True) == encode_json(backwards, sort_keys=True)
    assert "é".encode() in encode_json(value)


def test_a_surrogate_pair_is_one_character() -> None:
    assert parse_json(b'["\\ud83d\\ude00", 99999999999999999999]')[0] == "\U0001f600"
