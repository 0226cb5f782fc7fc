"""Whatever lies on a topic, a decoder gives a message or one of our errors: never another exception, never a hang.

Generated records range from pure noise to a valid example with one part spoiled, since noise alone stops at the first
check. Together more than 10,000 cases a run.
"""

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.errors import Invalid, Undecodable
from headrace.ledger import MAX_LEDGER_BYTES, Failure, decode_ledger, encode_ledger
from headrace.messages import Submission
from headrace.records import Record
from headrace.states import Cause
from headrace.topics import load_topics
from tests.unit.headrace.test_topics_file import DECODERS, record_of

CASES = 1000
TOPICS = load_topics()

numbers = st.one_of(
    st.integers(), st.integers(2**62, 2**70), st.floats(), st.sampled_from([0, -1, 2**63, 2**31, 1e400])
)
texts = st.one_of(
    st.text(max_size=40), st.sampled_from(["", "\x00", "../..", "a" * 5000, "١٢٣", "1_000", "+5", " 7", "NaN"])
)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(), st.integers(-(2**63), 2**64 - 1), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=4)),
    max_leaves=8,
)
spoiled_bytes = st.one_of(
    st.binary(max_size=200),
    texts.map(lambda t: t.encode("utf-8", "surrogatepass")),
    numbers.map(lambda n: str(n).encode()),
    json_values.map(lambda v: orjson.dumps(v, option=orjson.OPT_NON_STR_KEYS)),
    st.sampled_from([b"[" * 5000, b'{"a":' * 5000, b"\xff\xfe", b"null", b"[]", b"{}", b'""', b"-0", b"1e999"]),
)


@st.composite
def records(draw: st.DrawFn, name: str) -> Record:
    """The topic's example with some of its parts spoiled, dropped or doubled; sometimes nothing of it is left."""
    example = record_of(TOPICS[name])
    headers = list(example.headers)
    for _ in range(draw(st.integers(0, 3))):
        known = draw(st.sampled_from([k for k, _ in headers] or ["attempt"]))
        what = draw(st.sampled_from(["spoil", "drop", "add"]))
        if what == "drop":
            headers = [h for h in headers if h[0] != known]
        elif what == "spoil":
            headers = [h for h in headers if h[0] != known] + [(known, draw(spoiled_bytes))]
        else:
            headers.append((draw(st.sampled_from(["attempt", "ledger", "chunk", "x", ""])), draw(spoiled_bytes)))
    key = draw(st.one_of(st.just(example.key), st.none(), spoiled_bytes))
    value = draw(st.one_of(st.just(example.value), st.none(), spoiled_bytes, _spoiled_json(example.value)))
    return Record(name, draw(st.integers(0, 3)), draw(st.integers(0, 2**40)), 1764000000000, key, value, tuple(headers))


def _spoiled_json(value: bytes | None) -> st.SearchStrategy[bytes]:
    """The example's JSON with one of its fields replaced."""
    try:
        fields = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return st.just(b"")
    if not isinstance(fields, dict):
        return st.just(b"[]")
    return st.tuples(st.sampled_from(sorted(fields)), json_values).map(
        lambda kv: orjson.dumps({**fields, kv[0]: kv[1]})
    )


@pytest.mark.parametrize("name", TOPICS)
def test_a_record_decodes_or_is_refused_in_words(name: str) -> None:
    decode: Callable[[Record], Any] = DECODERS[name]

    @settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(records(name))
    def decodes_or_refuses(record: Record) -> None:
        try:
            decode(record)
        except (Undecodable, Invalid) as e:
            assert str(e)  # noqa: PT017 - either way is right; an error must say something

    decodes_or_refuses()


@settings(max_examples=CASES, deadline=None, database=None)
@given(json_values)
def test_a_submission_of_any_json_decodes_or_names_its_field(value: object) -> None:
    try:
        made = Submission.from_json(value)
    except Invalid as e:
        assert e.pointer == "" or e.pointer.startswith("/")  # noqa: PT017
    else:
        assert ".." not in made.directory.split("/")


@settings(max_examples=200, deadline=None, database=None)
@given(st.lists(st.text(max_size=6000), max_size=60))
def test_a_ledger_never_outgrows_its_header_and_keeps_first_and_last(details: list[str]) -> None:
    ledger = [Failure(i + 1, Cause.ERROR, "node-1", i, i, d) for i, d in enumerate(details)]
    raw = encode_ledger(ledger)
    assert len(raw) <= MAX_LEDGER_BYTES
    kept = decode_ledger(raw)
    assert [f.attempt for f in (kept[:1] + kept[-1:])] == [f.attempt for f in (ledger[:1] + ledger[-1:])]
