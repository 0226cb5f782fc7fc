"""GET /tasks/{id}/attempts/{n}/log: what an attempt has printed, at most its last 256 KiB, as text.

The node that ran the attempt has kept it below the results root (`headrace.storage.attempt_log`). There is none while
the attempt runs, when it printed nothing, and when its node does not share the results root: Problem no-log for all
three, as the gateway cannot tell them apart. Always plain text that no browser takes for a page.
"""

import asyncio
import os
import re

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gateway.http.problems import Problem
from gateway.routes.dependencies import parts_of
from gateway.view.projection import id_text
from headrace.storage.attempt_log import LOG_BYTES, log_path
from headrace.storage.safe_open import open_file_below

router = APIRouter()

_NUMBER = re.compile(r"[1-9]\d{0,5}", re.ASCII)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox",
    "Cache-Control": "private, no-cache",
}


@router.api_route("/tasks/{task_id}/attempts/{attempt}/log", methods=["GET", "HEAD"])
async def attempt_log(task_id: str, attempt: str, request: Request) -> Response:
    """What the attempt has printed."""
    parts = parts_of(request)
    row = await parts.find(task_id)
    if not _NUMBER.fullmatch(attempt):
        raise Problem("no-log", f"{attempt[:20]!r} is no attempt's number: they count from 1")
    printed = await asyncio.to_thread(_read, parts.results.fd, id_text(row.id), int(attempt))
    if printed is None:
        raise Problem(
            "no-log",
            f"nothing is kept of attempt {attempt}: it has not ended, or printed nothing, or ran on a node that does "
            "not share the results root",
            task_status=row.status,
        )
    return Response(printed, headers=_HEADERS, media_type="text/plain")


def _read(root: int, task_id: str, attempt: int) -> bytes | None:
    *segments, name = log_path(task_id, attempt).parts
    try:
        with open(open_file_below(root, segments, name), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_BYTES))
            return file.read(LOG_BYTES)
    except OSError:
        return None
