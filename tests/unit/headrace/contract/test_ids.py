"""Task ids: from keys, from sources, and derived ones that never change."""

import pytest

from headrace.contract.ids import id_of_idempotency_key, id_of_key, id_of_redrive, id_of_source, new_id
from tests.rigs.messages import ID


@pytest.mark.parametrize(
    "key", [None, b"", b"x", b"\xff" * 36, b"0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a1g", "٠".encode() * 16]
)
def test_a_key_that_is_not_a_uuid_is_no_id(key: bytes | None) -> None:
    assert id_of_key(key) is None


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
