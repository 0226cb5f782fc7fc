"""GET and HEAD /tasks/{id}/result: the stored bytes, streamed with constant memory, by range if wanted.

The file is opened by `headrace.storage.safe_open`, so that nothing outside the results root is read. A missing result
is Problem no-result, with the task's status.
"""

import asyncio
import os
import re
from collections.abc import AsyncIterator

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gateway.http.problems import Problem
from gateway.routes.dependencies import parts_of
from gateway.view.projection import TaskView, id_text
from headrace.contract.directory import check_directory
from headrace.contract.states import Status
from headrace.errors import Invalid
from headrace.storage.safe_open import open_file_below

router = APIRouter()

_CHUNK = 256 * 1024
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
# Shown by a browser as they are; anything else could be a page with scripts, and is only ever saved.
_INLINE = {
    "text/plain",
    "application/json",
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/webp",
    "image/avif",
    "image/bmp",
}
_CONTENT_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(; ?[\w-]+=[\w.-]+)*", re.ASCII)


@router.api_route("/tasks/{task_id}/result", methods=["GET", "HEAD"])
async def result(task_id: str, request: Request) -> Response:
    """The result of a completed task."""
    parts = parts_of(request)
    row = await parts.find(task_id)
    if row.status is not Status.COMPLETED:
        raise Problem("no-result", f"the task is {row.status}", task_status=row.status)
    file = _Open(await asyncio.to_thread(open_result, parts.results.fd, row))
    size = os.fstat(file.fd).st_size
    headers = _headers(row)
    if _matches(request.headers.get("if-none-match", ""), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    begin, end = _span(request, size, headers)
    headers["Content-Length"] = str(end - begin)
    status = 206 if "Content-Range" in headers else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    return StreamingResponse(_stream(file, begin, end), status, headers)


class _Open:
    """A descriptor that is closed with its last reference: a client may go before its stream has begun."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


def open_result(root: int, row: TaskView) -> int:
    """A descriptor of the task's file; Problem result-missing when there is none, or something else in its place."""
    gone = Problem(
        "result-missing", "the stored result is not on disk: it was removed, or the results root is another one"
    )
    directory, _, name = row.file.rpartition("/")
    try:
        segments = check_directory(directory).split("/")
    except Invalid:
        raise gone from None
    if not name.startswith(id_text(row.id)) or "\0" in name:
        raise gone
    try:
        return open_file_below(root, segments, name)
    except OSError:
        raise gone from None


def _headers(row: TaskView) -> dict[str, str]:
    content_type = row.content_type if _CONTENT_TYPE.fullmatch(row.content_type) else "application/octet-stream"
    headers = {
        "Content-Type": content_type,
        "ETag": f'"{row.sha256}"',
        "Accept-Ranges": "bytes",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox",
        "Cache-Control": "private, max-age=31536000, immutable",
    }
    if content_type.partition(";")[0].strip().lower() not in _INLINE:
        name = re.sub(r"[^\w.-]", "_", row.file.rpartition("/")[2], flags=re.ASCII)
        headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return headers


def _matches(given: str, etag: str) -> bool:
    return given.strip() == "*" or etag in [t.strip().removeprefix("W/") for t in given.split(",")]


def _span(request: Request, size: int, headers: dict[str, str]) -> tuple[int, int]:
    """First byte, and the one after the last; sets Content-Range. The whole, for ranges that are not served."""
    match = _RANGE.fullmatch(request.headers.get("range", "").strip())
    unchanged = request.headers.get("if-range", headers["ETag"]) == headers["ETag"]
    if match is None or not unchanged or match.groups() == ("", ""):
        return 0, size
    first, last = match.groups()
    begin, end = (
        (max(0, size - int(last)), size) if not first else (int(first), min(size, int(last) + 1) if last else size)
    )
    if begin >= end:
        if first and last and int(last) < int(first):
            return 0, size  # no range at all, by RFC 9110
        raise Problem(
            "range-not-satisfiable", f"the result has {size} bytes", headers={"Content-Range": f"bytes */{size}"}
        )
    headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
    return begin, end


async def _stream(file: _Open, begin: int, end: int) -> AsyncIterator[bytes]:
    while begin < end:
        piece = await asyncio.to_thread(os.pread, file.fd, min(_CHUNK, end - begin), begin)
        if not piece:
            raise OSError("the stored result is shorter than it was")
        begin += len(piece)
        yield piece
