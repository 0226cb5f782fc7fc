"""RFC 9457 problems: every error that the gateway answers with, in one table, so that `type` stays stable.

Handlers raise `Problem`. `gateway.app` turns it, and the framework's own errors, into `application/problem+json`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from starlette.responses import Response

from headrace.errors import Invalid

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 2  # Kafka clients reconnect within a second of the broker's return

# type (below /problems/) -> (status, title). Public: clients tell errors apart by the type.
TYPES: dict[str, tuple[int, str]] = {
    "bad-json": (400, "The body is not valid JSON"),
    "bad-request": (400, "The request is not valid"),
    "forbidden-host": (403, "The Host header is not accepted"),
    "forbidden-origin": (403, "Requests from other sites are not accepted"),
    "forbidden": (403, "The request is not allowed"),
    "not-found": (404, "The path does not exist"),
    "no-such-task": (404, "The task does not exist"),
    "no-result": (404, "The task has no result"),
    "no-log": (404, "The attempt has no log"),
    "method-not-allowed": (405, "The path does not support this method"),
    "already-ended": (409, "The task has already ended"),
    "task-forgotten": (410, "The task is no longer remembered"),
    "result-missing": (410, "The stored result is missing"),
    "too-large": (413, "The body is too large"),
    "unsupported-media-type": (415, "The Content-Type is not supported"),
    "range-not-satisfiable": (416, "The range lies outside the result"),
    "invalid-submission": (422, "The submission is not valid"),
    "unknown-kind": (422, "The task kind is not available"),
    "invalid-payload": (422, "The payload does not match the schema of its kind"),
    "idempotency-conflict": (422, "The Idempotency-Key was used with another body"),
    "internal-error": (500, "The gateway failed"),
    "kafka-unavailable": (503, "Kafka is unavailable"),
    "catching-up": (503, "The status view is catching up"),
    "statistics-unavailable": (503, "The statistics database is unavailable"),
}


class Problem(Exception):
    """An error to answer with.

    `type` is a key of TYPES, `detail` says what is wrong and what to do. `errors` name the fields at fault,
    `extensions` are further members of the JSON. Every 503 carries Retry-After.
    """

    def __init__(
        self,
        type: str,
        detail: str,
        errors: Sequence[Invalid] = (),
        headers: Mapping[str, str] | None = None,
        **extensions: Any,
    ) -> None:
        super().__init__(detail)
        self.type, self.detail, self.errors, self.extensions = type, detail, errors, extensions
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
        return body | self.extensions

    def response(self) -> Response:
        return Response(orjson.dumps(self.to_json()), self.status, self.headers, MEDIA_TYPE)
