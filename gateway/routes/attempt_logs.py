"""GET /tasks/{id}/attempts/{n}/log: what an attempt printed, at most its last 256 KiB, as plain text.

The node that ran the attempt stores the log below the results root (`headrace.storage.attempt_log`). A log is missing
while the attempt runs, when it printed nothing, when its node does not share the results root, and when workers have
removed it after HEADRACE_LOG_DAYS. The gateway cannot tell these apart: all are Problem no-log.
"""

import asyncio
import os
import re

from starlette.requests import Request
from starlette.responses import Response

from headrace.storage.attempt_log import LOG_BYTES, log_path
from headrace.storage.safe_open import open_file_below

from ..http.problems import Problem
from ..http.responses import UNTRUSTED_CONTENT
from ..http.router import Router
from ..view.projection import id_text
from .dependencies import dependencies_of

router = Router()

_NUMBER = re.compile(r"[1-9]\d{0,5}", re.ASCII)
_HEADERS = UNTRUSTED_CONTENT | {"Cache-Control": "private, no-cache"}


@router.get("/tasks/{task_id}/attempts/{attempt}/log")
async def attempt_log(task_id: str, attempt: str, request: Request) -> Response:
    """What the attempt printed."""
    deps = dependencies_of(request)
    task = await deps.find_task(task_id)
    if not _NUMBER.fullmatch(attempt):
        raise Problem("no-log", f"{attempt[:20]!r} is not the number of an attempt: attempts count from 1")
    printed = await asyncio.to_thread(_read_log, deps.results_root.fd, id_text(task.id), int(attempt))
    if printed is None:
        raise Problem(
            "no-log",
            f"attempt {attempt} has no log: it has not ended, or it printed nothing, or its node does not share the "
            "results root, or the log is older than logs are kept (HEADRACE_LOG_DAYS)",
            task_status=task.status,
        )
    return Response(printed, headers=_HEADERS, media_type="text/plain")


def _read_log(root: int, task_id: str, attempt: int) -> bytes | None:
    *segments, name = log_path(task_id, attempt).parts
    try:
        with open(open_file_below(root, segments, name), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_BYTES))
            return file.read(LOG_BYTES)
    except OSError:
        return None
