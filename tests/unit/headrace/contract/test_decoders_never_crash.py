"""Whatever bytes a record has, a decoder returns a sound message or one of our errors: no other exception, no hang.

A case is a short string of bytes that says how to spoil the topic's valid example: noise alone would fail at the first
check, and plain code that reads choices from bytes is ten times cheaper than strategies. More than 10,000 cases a run.
A message is sound when its readers can store it: its numbers fit SQLite and its times are dates.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gateway.http.problems import Problem
from gateway.http.query import parse_cursor
from gateway.submission import parse_body
from gateway.view.task_events import rfc3339
from headrace.contract.bounds import MAX_ATTEMPTS
from headrace.contract.ids import id_of_key
from headrace.contract.journal import ClaimKey
from headrace.contract.ledger import MAX_LEDGER_BYTES, Failure, decode_ledger, encode_ledger
from headrace.contract.payload_check import PayloadCheck
from headrace.contract.records import Record, Source
from headrace.contract.states import Cause
from headrace.contract.submission import Submission
from headrace.errors import Invalid, Undecodable, UsageError
from headrace.kafka.topics import load_topics
from tests.unit.headrace.kafka.test_topics_file import DECODERS, record_of

CASES = 900
TOPICS = load_topics()
BYTES_DECODERS: dict[str, Callable[[bytes], Any]] = {
    "source": lambda raw: Source.parse(raw.decode("latin-1")),
    "claim key": ClaimKey.parse,
    "task id": id_of_key,
    "ledger": decode_ledger,
    "body": parse_body,
    "cursor": lambda raw: parse_cursor({"cursor": raw.decode("latin-1")}),
}

NUMBERS = [
    "0",
    "-1",
    "1",
    "10001",
    "2147483648",
    "9223372036854775807",
    "9223372036854775808",
    "1" * 400,
    "1e400",
    "1e18",
    "-0",
    "+5",
    " 7",
    "1_000",
    "\u0661\u0662",
    "NaN",
    "Infinity",
    "3.5",
    "253402300800000",
]
TEXTS = [b"", b"\x00", b"../..", b"a" * 5000, b"\xff\xfe", b"\xed\xa0\x80", b"a:b:c", b"tasks.normal/0/1", b"go"]
JSONS = [
    b"[" * 5000,
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b"null",
    b"[]",
    b"{}",
    b'""',
    b"[[]]",
    b'{"a":1,"a":2}',
    b'{"id":{}}',
    b'"\\ud800"',
    b"[null]",
    b"true",
    b'[{"attempt":1}]',
]
VALUES: list[Any] = [None, True, [], {}, "", "x", -1, 0, 2**63, 2**64 - 1, 1e300, "1", [{}], [None], {"a": {}}, 1.5]

cheap = settings(
    max_examples=CASES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)


class Choices:
    """Reads decisions from a case's bytes; zeros when they are used up."""

    def __init__(self, case: bytes) -> None:
        self._case, self._at = case, 0

    def below(self, count: int) -> int:
        byte = self._case[self._at] if self._at < len(self._case) else 0
        self._at += 1
        return byte % count

    def of(self, some: list[Any]) -> Any:
        return some[self.below(len(some))]

    def rest(self) -> bytes:
        return self._case[self._at :]

    def spoiled(self, valid: bytes) -> bytes:
        """Bytes to use in place of valid ones."""
        how = self.below(10)
        if how == 0:
            return self.rest()
        if how == 1:
            return str(self.of(NUMBERS)).encode()
        if how == 2:
            return bytes(self.of(TEXTS))
        if how == 3:
            return bytes(self.of(JSONS))
        if how == 4 and valid:
            at = self.below(len(valid))
            return valid[:at] + bytes([self.below(256)]) + valid[at + 1 :]
        return valid[: self.below(len(valid) + 1)] if how == 5 else self.spoiled_json(valid)

    def spoiled_json(self, valid: bytes) -> bytes:
        """The same JSON with one of its fields, at some depth, replaced by another value or number, or left out."""
        try:
            whole = orjson.loads(valid)
        except orjson.JSONDecodeError:
            return valid
        at = whole
        while isinstance(at, dict | list) and at:
            key = self.of(sorted(at)) if isinstance(at, dict) else self.below(len(at))
            if isinstance(at[key], dict | list) and at[key] and self.below(3):
                at = at[key]
                continue
            at[key] = orjson.Fragment(self.of(NUMBERS)) if self.below(2) else self.of(VALUES)
            break
        return orjson.dumps(whole)


def spoiled_record(name: str, case: bytes) -> Record:
    """The topic's example with up to four of its parts spoiled, dropped or doubled."""
    choices, valid = Choices(case), record_of(TOPICS[name])
    headers, key, value = list(valid.headers), valid.key, valid.value
    partition = choices.of([valid.partition, valid.partition, 0, 3])
    for _ in range(1 + choices.below(4)):
        what = choices.below(6)
        if what == 0:
            key = choices.of([None, choices.spoiled(valid.key or b"")])
        elif what <= 2:
            value = choices.spoiled(valid.value or b"") if choices.below(8) else None
        elif headers and what < 5:
            at = choices.below(len(headers))
            headers[at] = (headers[at][0], choices.spoiled(headers[at][1]))
        else:
            headers.append((choices.of(["attempt", "ledger", "chunk", "x", "", "submitted-ms"]), choices.spoiled(b"1")))
    return Record(name, partition, 5, timestamp_ms=1764000000000, key=key, value=value, headers=tuple(headers))


def numbers_of(message: object) -> Iterator[tuple[str, float]]:
    """Every number in a message, with its field's name; a payload and a schema may hold anything."""
    if is_dataclass(message) and not isinstance(message, type):
        for field in fields(message):
            value = getattr(message, field.name)
            if isinstance(value, int | float):
                yield field.name, value
            elif field.name not in ("payload", "schema"):
                yield from numbers_of(value)
    elif isinstance(message, tuple | list):
        for part in message:
            yield from numbers_of(part)


@pytest.mark.parametrize("name", TOPICS)
def test_a_record_decodes_soundly_or_is_refused(name: str) -> None:
    decode: Callable[[Record], Any] = DECODERS[name]

    @cheap
    @given(st.binary(min_size=16, max_size=24))
    def decodes_or_refuses(case: bytes) -> None:
        record = spoiled_record(name, case)
        try:
            message = decode(record)
        except (Undecodable, Invalid) as e:
            assert str(e)  # noqa: PT017 - either way is right; an error must say something
            return
        for field, number in numbers_of(message):
            assert -(2**63) <= number < 2**63, field
            assert field != "attempt" or number <= MAX_ATTEMPTS
            if field.endswith("_ms") and number > 0:
                assert rfc3339(int(number)), field
        if name == "kinds":
            _compiles_or_refuses(message)

    decodes_or_refuses()


def _compiles_or_refuses(kind: Any) -> None:
    try:
        PayloadCheck(kind).problems({"upper_bound": 2**63})
    except UsageError as e:
        assert str(e)  # noqa: PT017 - either way is right


@cheap
@given(st.sampled_from(sorted(BYTES_DECODERS)), st.binary(max_size=40))
def test_bare_bytes_decode_or_are_refused(name: str, case: bytes) -> None:
    valid = {
        "source": b"tasks.normal/3/17",
        "claim key": record_of(TOPICS["tasks.running"]).key or b"",
        "task id": b"0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a11",
        "body": record_of(TOPICS["tasks.normal"]).value or b"",
        "ledger": dict(record_of(TOPICS["tasks.high"]).headers)["ledger"],
    }
    try:
        BYTES_DECODERS[name](Choices(case).spoiled(valid.get(name, b"")))
    except (Undecodable, Invalid, Problem) as e:
        assert str(e)  # noqa: PT017 - either way is right


@cheap
@given(st.binary(max_size=40))
def test_a_submission_of_any_json_decodes_or_names_its_field(case: bytes) -> None:
    choices, value = Choices(case), record_of(TOPICS["tasks.normal"]).value or b""
    value = orjson.dumps(orjson.loads(value) | {"timeout_s": 5, "max_attempts": 3, "expires_at": "2026-11-23T18:00Z"})
    for _ in range(1 + choices.below(3)):
        value = choices.spoiled_json(value)
    try:
        made = Submission.decode(value)
    except Invalid as e:
        assert e.pointer == "" or e.pointer.startswith("/")  # noqa: PT017
    except Undecodable:
        assert _is_no_json(value)
    else:
        assert ".." not in made.directory.split("/")


def _is_no_json(raw: bytes) -> bool:
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError:
        return True
    return False


@settings(max_examples=200, deadline=None, database=None)
@given(st.lists(st.text(max_size=6000), max_size=60))
def test_a_ledger_never_outgrows_its_header_and_keeps_first_and_last(details: list[str]) -> None:
    ledger = [
        Failure(i + 1, Cause.ERROR, node="node-1", started_ms=i, ended_ms=i, detail=d) for i, d in enumerate(details)
    ]
    raw = encode_ledger(ledger)
    assert len(raw) <= MAX_LEDGER_BYTES
    kept = decode_ledger(raw)
    assert [f.attempt for f in (kept[:1] + kept[-1:])] == [f.attempt for f in (ledger[:1] + ledger[-1:])]
