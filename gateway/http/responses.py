"""Responses that several routes make: JSON that is never cached, and content that is revalidated by its ETag.

Imported by routes and the page. Nothing here fails.
"""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from headrace.contract.exact_json import encode_json

NO_STORE = {"Cache-Control": "no-store"}
# Tasks write results and logs: a browser must neither guess their type nor run scripts in them.
UNTRUSTED_CONTENT = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}


def json_response(body: object, status: int = 200) -> Response:
    """`body` as JSON that no cache may keep."""
    return Response(encode_json(body), status, media_type="application/json", headers=NO_STORE)


def not_modified(request: Request, headers: Mapping[str, str]) -> Response | None:
    """304 with `headers` when the request's If-None-Match names their ETag, else None."""
    condition = request.headers.get("if-none-match", "")
    tags = [tag.strip().removeprefix("W/") for tag in condition.split(",")]
    if condition.strip() == "*" or headers["ETag"] in tags:
        return Response(status_code=304, headers=headers)
    return None


def page_policy(style: str = "'self'", images: str = "'self' blob:") -> str:
    """The Content-Security-Policy of a page: scripts and requests of this site only, and no frames."""
    return (
        f"default-src 'none'; script-src 'self'; style-src {style}; img-src {images}; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )
