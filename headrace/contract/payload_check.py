"""Payloads against the JSON Schemas that nodes announce. Used by the gateway and by a node's intake."""

from typing import Any

import jsonschema_rs

from headrace.contract.cluster import KindInfo
from headrace.errors import Invalid, UsageError


def _refuse(uri: str) -> Any:
    raise ValueError(f"schemas may not refer to {uri}: only to their own $defs")


class PayloadCheck:
    """One kind's schema, compiled. UsageError when the kind announces a schema that is none."""

    def __init__(self, kind: KindInfo) -> None:
        self.kind = kind
        try:
            self._validator = jsonschema_rs.Draft202012Validator(kind.schema, retriever=_refuse)
        except (jsonschema_rs.ValidationError, ValueError) as e:
            raise UsageError(f"kind {kind.name} announces a schema that is none: {e}") from None

    def problems(self, payload: dict[str, Any]) -> list[Invalid]:
        """Every way in which the payload does not fit, each with the JSON Pointer of its field below /payload."""
        return [
            Invalid(
                e.message,
                "/payload" + "".join(f"/{str(p).replace('~', '~0').replace('/', '~1')}" for p in e.instance_path),
            )
            for e in self._validator.iter_errors(payload)
        ]
