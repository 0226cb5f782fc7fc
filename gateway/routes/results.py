"""GET and HEAD /tasks/{id}/result: the stored bytes, streamed with constant memory, whole or by range.

`headrace.storage.safe_open` opens the file, so nothing outside the results root is read. Problem no-result, with the
task's status, before the task has completed; Problem result-missing when the file is gone.
"""

import asyncio
import os
import re
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from headrace.contract.directory import check_directory
from headrace.contract.states import Status
from headrace.errors import Invalid
from headrace.storage.safe_open import open_file_below

from ..http.problems import Problem
from ..http.responses import UNTRUSTED_CONTENT, not_modified
from ..http.router import Router
from ..view.projection import TaskView, id_text
from .dependencies import dependencies_of

router = Router()

_CHUNK = 256 * 1024
_NO_RESULT = {
    Status.QUEUED: "the task is queued: it has a result once it has completed",
    Status.RUNNING: "the task is running: it has a result once it has completed",
    Status.FAILED: "the task failed and has no result: GET /tasks/<id> shows the error",
    Status.CANCELLED: "the task was cancelled and has no result",
}
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
# A browser may show these. Any other type could be a page with scripts, and is sent as a download.
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


@router.get("/tasks/{task_id}/result")
async def result(task_id: str, request: Request) -> Response:
    """The result of a completed task."""
    deps = dependencies_of(request)
    task = await deps.find_task(task_id)
    if task.status is not Status.COMPLETED:
        raise Problem("no-result", _NO_RESULT[task.status], task_status=task.status)
    file = _OpenFile(await asyncio.to_thread(open_result, deps.results_root.fd, task))
    size = os.fstat(file.fd).st_size
    headers = _headers(task)
    if (unchanged := not_modified(request, headers)) is not None:
        return unchanged
    begin, end = _byte_range(request, size, headers)
    headers["Content-Length"] = str(end - begin)
    status = 206 if "Content-Range" in headers else 200
    return StreamingResponse(_stream(file, begin, end), status, headers)


class _OpenFile:
    """A file descriptor, closed with its last reference: a client may disconnect before its stream has begun."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


def open_result(root: int, task: TaskView) -> int:
    """A descriptor of the task's file below the directory `root`; Problem result-missing when it cannot be opened."""
    gone = Problem(
        "result-missing",
        "the stored result is not on disk: it was deleted, or the storekeeper uses another results root",
    )
    directory, _, name = task.file.rpartition("/")
    try:
        segments = check_directory(directory).split("/")
    except Invalid:
        raise gone from None
    if not name.startswith(id_text(task.id)) or "\0" in name:
        raise gone
    try:
        return open_file_below(root, segments, name)
    except OSError:
        raise gone from None


def _headers(task: TaskView) -> dict[str, str]:
    content_type = task.content_type if _CONTENT_TYPE.fullmatch(task.content_type) else "application/octet-stream"
    headers = {
        "Content-Type": content_type,
        "ETag": f'"{task.sha256}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=31536000, immutable",
    } | UNTRUSTED_CONTENT
    if content_type.partition(";")[0].strip().lower() not in _INLINE:
        name = re.sub(r"[^\w.-]", "_", task.file.rpartition("/")[2], flags=re.ASCII)
        headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return headers


def _byte_range(request: Request, size: int, headers: dict[str, str]) -> tuple[int, int]:
    """The first byte, and the one after the last; sets Content-Range. The whole result unless one range is valid."""
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
            return 0, size  # RFC 9110: an invalid range is ignored
        raise Problem(
            "range-not-satisfiable",
            f"the result has {size} bytes: ask for a range within them",
            headers={"Content-Range": f"bytes */{size}"},
        )
    headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
    return begin, end


async def _stream(file: _OpenFile, begin: int, end: int) -> AsyncIterator[bytes]:
    while begin < end:
        piece = await asyncio.to_thread(os.pread, file.fd, min(_CHUNK, end - begin), begin)
        if not piece:
            raise OSError("the stored result became shorter while it was sent")
        begin += len(piece)
        yield piece
