"""A payload's Python values: pydantic's strict reading, in which a whole number may be written 1.0 or 1e5.

For JSON Schema 1, 1.0 and 1e0 are one number, so such a payload passes the checks before the kind is called; a strict
`int` refuses all but the first. Everything else stays strict: neither "1" nor true is an int. pydantic's lax reading
would take them, and in unions it takes the wrong member.
"""

import math
import re
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import SchemaValidator, core_schema

from headrace.contract.exact_json import pointer_segment
from headrace.errors import Invalid
from headrace.payload.schema import PayloadSchema, schema_of

_EXACT = 2**53  # beyond it a float cannot tell neighbouring whole numbers apart
_TOKENS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?', re.DOTALL)
# Parts of pydantic's core schemas that hold values of the author's, or keys, which are always text.
_LEFT_ALONE = frozenset(
    {"metadata", "serialization", "default", "expected", "members", "keys_schema", "cls", "function"}
)


class PayloadModel:
    """One kind's payload: its pydantic model, its `schema`, and how its JSON is read.

    Raises pydantic's errors for types that have no JSON Schema.
    """

    def __init__(self, model: type[BaseModel]) -> None:
        self._model = model
        self._tolerant: SchemaValidator | None = None
        self.schema: PayloadSchema = schema_of(model)

    def read(self, payload: bytes) -> dict[str, Any]:
        """The values by their names in the JSON; Invalid names the field that does not match."""
        try:
            model = self._read_model(payload)
        except ValidationError as e:
            first = e.errors(include_url=False)[0]
            pointer = "/payload" + "".join(map(pointer_segment, first["loc"]))
            raise Invalid(f"{pointer}: {first['msg']}", pointer) from None
        return {str(info.alias): getattr(model, field) for field, info in self._model.model_fields.items()}

    def _read_model(self, payload: bytes) -> BaseModel:
        try:
            return self._model.model_validate_json(payload, strict=True)
        except ValidationError as e:
            if all(error["type"] != "int_type" for error in e.errors(include_url=False, include_context=False)):
                raise
        if self._tolerant is None:
            schema = _with_written_integers(self._model.__pydantic_core_schema__)
            # Validators of nested models that exist already would be used instead of those that this schema asks for.
            self._tolerant = SchemaValidator(schema, _use_prebuilt=False)
        found: BaseModel = self._tolerant.validate_json(_TOKENS.sub(_write_exactly, payload), strict=True)
        return found


def _write_exactly(token: re.Match[bytes]) -> bytes:
    """A whole number beyond 2**53 that is written as a fraction or a power, with all its digits."""
    text = token.group()
    is_written_otherwise = not text.startswith(b'"') and (b"." in text or b"e" in text.lower())
    if not is_written_otherwise or not _EXACT <= abs(float(text)) < math.inf:
        return text
    exact = Decimal(text.decode())
    return str(int(exact)).encode() if exact == exact.to_integral_value() else text


def _with_written_integers(schema: Any, in_union_with_float: bool = False) -> Any:
    """A copy of a core schema in which each `int` also takes a float that is whole."""
    if isinstance(schema, list | tuple):
        return type(schema)(_with_written_integers(part, in_union_with_float) for part in schema)
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "int":
        if in_union_with_float:
            return schema
        ref = {"ref": schema["ref"]} if "ref" in schema else {}
        inner = {k: v for k, v in schema.items() if k != "ref"}
        return core_schema.no_info_before_validator_function(_integer_of, inner) | ref
    with_float = schema.get("type") == "union" and any(_type_of(c) == "float" for c in schema["choices"])
    return {k: _with_written_part(k, v, with_float) for k, v in schema.items()}


def _with_written_part(name: str, part: Any, in_union_with_float: bool) -> Any:
    if name in ("fields", "choices") and isinstance(part, dict):  # by names of the author's
        return {key: _with_written_integers(value) for key, value in part.items()}
    return part if name in _LEFT_ALONE else _with_written_integers(part, in_union_with_float)


def _type_of(choice: Any) -> Any:
    return (choice[0] if isinstance(choice, tuple) else choice).get("type")


def _integer_of(value: Any) -> Any:
    return int(value) if type(value) is float and value.is_integer() and abs(value) <= _EXACT else value
