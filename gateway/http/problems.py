"""RFC 9457 problems: every error that the gateway answers with, in one table, so that `type` is stable.

Handlers raise `Problem`; the application turns it, and what the framework raises, into `application/problem+json`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from starlette.responses import Response

from headrace.errors import Invalid

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 2  # Kafka's clients are back within a second of the broker

# type (below /problems/) -> (status, title). Public: clients tell errors apart by it.
TYPES: dict[str, tuple[int, str]] = {
    "bad-json": (400, "The body is not valid JSON"),
    "bad-request": (400, "The request cannot be understood"),
    "forbidden-host": (403, "This Host is not served"),
    "forbidden-origin": (403, "Requests from other sites are refused"),
    "forbidden": (403, "This is not allowed here"),
    "not-found": (404, "There is nothing here"),
    "no-such-task": (404, "There is no such task"),
    "no-result": (404, "The task has no result"),
    "no-log": (404, "Nothing that the attempt printed is kept"),
    "method-not-allowed": (405, "This method is not allowed here"),
    "already-ended": (409, "The task has ended"),
    "result-missing": (410, "The stored result is gone"),
    "too-large": (413, "The body is too large"),
    "unsupported-media-type": (415, "The body is of the wrong type"),
    "range-not-satisfiable": (416, "The range lies outside the result"),
    "invalid-submission": (422, "The submission breaks a rule"),
    "unknown-kind": (422, "No node announces this task kind"),
    "invalid-payload": (422, "The payload does not fit its kind"),
    "idempotency-conflict": (422, "This Idempotency-Key came with another body"),
    "internal-error": (500, "The gateway has failed"),
    "kafka-unavailable": (503, "Kafka does not answer"),
    "catching-up": (503, "The status view is catching up"),
    "statistics-unavailable": (503, "The statistics' database does not answer"),
}


class Problem(Exception):
    """An answer that is an error. `errors` names the fields at fault; `more` are extension members."""

    def __init__(
        self,
        type: str,
        detail: str,
        errors: Sequence[Invalid] = (),
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(detail)
        self.type, self.detail, self.errors, self.more = type, detail, errors, more
        self.status, self.title = TYPES[type]
        self.headers = dict(headers or {})
        if self.status == 503:
            self.headers.setdefault("Retry-After", str(RETRY_AFTER_S))

    def to_json(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "type": f"/problems/{self.type}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            body["errors"] = [{"pointer": e.pointer, "detail": e.detail} for e in self.errors]
        return body | self.more

    def response(self) -> Response:
        return Response(orjson.dumps(self.to_json()), self.status, self.headers, MEDIA_TYPE)
