"""Checks payloads against the JSON Schemas that nodes announce. Used by the gateway and by a node's intake.

Formats and patterns are checked as pydantic reads them (`payload_formats`): what passes here is what the kind takes,
unless the kind says that it checks more on its node (`KindInfo.checked_on_node`).
"""

from collections.abc import Iterator
from typing import Any

import jsonschema_rs

from headrace.contract.cluster import KindInfo
from headrace.contract.exact_json import pointer_segment
from headrace.contract.payload_formats import PydanticPattern, described, format_checks
from headrace.contract.printable import printable
from headrace.errors import Invalid, UsageError

_MAX_ALTERNATIVES = 5  # of a union, in one message
_BEGINNING, _END = 200, 300  # characters kept of a message, which quotes the value at fault: perhaps all of a payload


def _refuse(uri: str) -> Any:
    raise ValueError(f"a schema may refer only to its own $defs, not to {uri}")


class PayloadCheck:
    """One kind's schema, compiled. UsageError when it is not a valid schema."""

    def __init__(self, kind: KindInfo) -> None:
        self.kind = kind
        try:
            self._validator = jsonschema_rs.Draft202012Validator(
                kind.schema,
                retriever=_refuse,
                formats=format_checks(),
                validate_formats=True,
                keywords={"pattern": PydanticPattern},
            )
        except (jsonschema_rs.ValidationError, ValueError) as e:
            raise UsageError(f"kind {kind.name} announces an invalid schema: {e}") from None

    def problems(self, payload: dict[str, Any]) -> list[Invalid]:
        """Every violation of the schema, with the JSON Pointer of its field below /payload; empty when valid."""
        return [Invalid(_shortened(_message(e)), _pointer(e)) for e in self._validator.iter_errors(payload)]


def _pointer(error: jsonschema_rs.ValidationError) -> str:
    return "/payload" + "".join(map(pointer_segment, error.instance_path))


def _shortened(message: str) -> str:
    """The message without the middle of a long value: what is wrong with it comes last."""
    if len(message) <= _BEGINNING + _END:
        return printable(message)
    return printable(f"{message[:_BEGINNING]} … {message[-_END:]}")


def _message(error: jsonschema_rs.ValidationError) -> str:
    """What is wrong in words: with an example for a format, and with what each alternative of a union asks for."""
    kind = error.kind
    if isinstance(kind, jsonschema_rs.ValidationErrorKind.Format):
        return error.message.replace(f'a "{kind.format}"', described(kind.format))
    if isinstance(kind, jsonschema_rs.ValidationErrorKind.PropertyNames):
        return f"the key {_message(kind.error)}"
    if isinstance(kind, jsonschema_rs.ValidationErrorKind.AnyOf | jsonschema_rs.ValidationErrorKind.OneOfNotValid):
        asked = list(dict.fromkeys(_alternatives(kind.context)))
        return "; or ".join(asked[:_MAX_ALTERNATIVES]) or error.message
    return error.message


def _alternatives(context: list[list[jsonschema_rs.ValidationError]]) -> Iterator[str]:
    return (_message(branch[0]) for branch in context if branch)
