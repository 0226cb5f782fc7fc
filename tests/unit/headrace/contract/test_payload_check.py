"""Payloads against the schemas that nodes announce."""

import pytest

from headrace.contract.cluster import KindInfo
from headrace.contract.payload_check import PayloadCheck
from headrace.errors import UsageError


def test_a_payload_is_checked_against_its_kinds_schema_with_pointers() -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "a/b": {"type": "string"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    check = PayloadCheck(KindInfo("k", schema, timeout_s=1.0, max_attempts=1))
    assert check.problems({"n": 1}) == []
    assert {p.pointer for p in check.problems({"n": "x", "a/b": 5})} == {"/payload/n", "/payload/a~1b"}
    assert check.problems({})[0].pointer == "/payload"


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"$ref": "https://elsewhere.example/schema"}])
def test_an_invalid_schema_or_one_with_a_foreign_reference_is_refused(schema: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        PayloadCheck(KindInfo("k", schema, timeout_s=1.0, max_attempts=1))
