"""GET / and its files: the web page, with nothing inline and nothing from outside.

The files beside this module are read once at start. The page speaks to the public routes only.
"""

from hashlib import sha256
from importlib.resources import files

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gateway.http.problems import Problem

router = APIRouter()

_TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)


def _load() -> dict[str, tuple[bytes, str, str]]:
    """File name -> (bytes, content type, ETag)."""
    found = {}
    for file in files(__package__).iterdir():
        suffix = "." + file.name.rpartition(".")[2]
        if suffix in _TYPES:
            raw = file.read_bytes()
            found[file.name] = raw, _TYPES[suffix], f'"{sha256(raw).hexdigest()[:32]}"'
    return found


_FILES = _load()


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def page(request: Request) -> Response:
    return _file("index.html", request)


@router.api_route("/page/{name}", methods=["GET", "HEAD"], include_in_schema=False)
async def page_file(name: str, request: Request) -> Response:
    return _file(name, request)


def _file(name: str, request: Request) -> Response:
    if name not in _FILES:
        raise Problem("not-found", "the page has no such file")
    raw, content_type, etag = _FILES[name]
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache", "ETag": etag}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(raw, headers=headers, media_type=content_type)
