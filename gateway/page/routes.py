"""GET / and its files: the web page, without inline scripts and without files from other sites.

The files beside this module are read once at start. The page uses only the public routes.
"""

from hashlib import sha256
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from ..http.problems import Problem
from ..http.responses import not_modified, page_policy
from ..http.router import Router

router = Router()

_TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_POLICY = page_policy()


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


@router.get("/", include_in_schema=False)
async def page(request: Request) -> Response:
    return serve_file("index.html", request)


@router.get("/page/{name}", include_in_schema=False)
async def page_file(name: str, request: Request) -> Response:
    return serve_file(name, request)


def serve_file(name: str, request: Request, policy: str = _POLICY) -> Response:
    """A file of the page under a Content-Security-Policy; Problem not-found."""
    if name not in _FILES:
        raise Problem("not-found", f"the page has no file {name[:100]!r}: open / for the page")
    raw, content_type, etag = _FILES[name]
    headers = {"Content-Security-Policy": policy, "Cache-Control": "no-cache", "ETag": etag}
    return not_modified(request, headers) or Response(raw, headers=headers, media_type=content_type)
