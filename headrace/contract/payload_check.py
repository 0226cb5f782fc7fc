"""Checks payloads against the JSON Schemas that nodes announce. Used by the gateway and by a node's intake."""

from typing import Any

import jsonschema_rs

from headrace.contract.cluster import KindInfo
from headrace.errors import Invalid, UsageError


def _refuse(uri: str) -> Any:
    raise ValueError(f"a schema may refer only to its own $defs, not to {uri}")


class PayloadCheck:
    """One kind's schema, compiled. UsageError when it is not a valid schema."""

    def __init__(self, kind: KindInfo) -> None:
        self.kind = kind
        try:
            self._validator = jsonschema_rs.Draft202012Validator(kind.schema, retriever=_refuse)
        except (jsonschema_rs.ValidationError, ValueError) as e:
            raise UsageError(f"kind {kind.name} announces an invalid schema: {e}") from None

    def problems(self, payload: dict[str, Any]) -> list[Invalid]:
        """Every violation of the schema, with the JSON Pointer of its field below /payload; empty when valid."""
        return [
            Invalid(
                e.message,
                "/payload" + "".join(f"/{str(p).replace('~', '~0').replace('/', '~1')}" for p in e.instance_path),
            )
            for e in self._validator.iter_errors(payload)
        ]
