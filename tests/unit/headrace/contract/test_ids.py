"""Task ids: from keys, from sources, and derived ones that never change."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.contract.ids import id_of_idempotency_key, id_of_key, id_of_redrive, id_of_source, new_id, parse_id
from tests.rigs.messages import ID


@pytest.mark.parametrize(
    "key",
    [
        None,
        b"",
        b"x",
        b"\xff" * 36,
        b"0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a1g",
        "٠".encode() * 16,
        ID.encode() + b"\n",
        b" " + ID.encode(),
        b"0x" + ID.replace("-", "").encode()[2:],
        b"{" + ID.encode(),
        ID.replace("-", "", 1).encode(),
        ID.encode() * 30_000,
        uuid.UUID(ID).bytes,
    ],
    ids=lambda key: repr(key)[:50],
)
def test_a_key_that_is_not_a_uuid_is_no_id(key: bytes | None) -> None:
    assert id_of_key(key) is None


@pytest.mark.parametrize(
    "spelling", ["{}", "{{{}}}", "urn:uuid:{}", "urn:uuid:{{{}}}"], ids=["plain", "braces", "urn", "urn and braces"]
)
def test_every_spelling_of_a_uuid_is_the_same_id(spelling: str) -> None:
    spelt = [spelling.format(ID), spelling.format(ID.replace("-", ""))]
    for text in [*spelt, *map(str.upper, spelt), *map(str.title, spelt)]:
        assert parse_id(text) == id_of_key(text.encode()) == ID


def test_digits_of_another_script_are_no_id() -> None:
    assert parse_id(ID.replace("0", "\u0660")) is None


@given(st.uuids())
def test_an_id_is_the_uuid_in_lower_case_with_dashes(own: uuid.UUID) -> None:
    assert parse_id(str(own).upper()) == parse_id(own.hex) == str(own)


def test_derived_ids_never_change() -> None:
    # Written down once: a release that changed them would run tasks twice.
    assert id_of_source("tasks.normal", 3, 17) == "a573d318-20eb-56f3-ab61-1e8b22454f05"
    assert id_of_redrive(ID, 1) == "dcab5323-18a0-515e-886a-c5bad554221a"
    assert id_of_idempotency_key("a", "k") == "c3ad8a5f-43b0-51e1-b20d-b4b6b0215db5"


def test_different_sources_and_keys_have_different_ids() -> None:
    places = [id_of_source("t", p, o) for p in range(3) for o in range(3)]
    others = [
        id_of_redrive(ID, 1),
        id_of_redrive(ID, 2),
        id_of_idempotency_key("a", "k"),
        id_of_idempotency_key("b", "k"),
    ]
    assert len({*places, *others, new_id(), new_id()}) == 15
