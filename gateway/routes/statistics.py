"""GET /stats/…: the statistics as JSON or CSV, and the page that draws them.

Everything comes from the database that `headrace analytics` writes; while it does not answer, Problem
statistics-unavailable. Buckets are UTC, weeks start on Monday, spans are widened to whole buckets.
"""

import asyncio
import base64
import csv
import gzip
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any, TypeVar

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gateway.http.problems import Problem
from gateway.http.query import bad, time_of
from gateway.page.routes import page_file
from gateway.routes.dependencies import parts_of
from gateway.statistics_store import BUCKETS, DIMENSIONS, DatabaseUnavailable, Span, StatisticsRow, StatisticsStore

router = APIRouter()

MAX_LIMIT = 10_000
DEFAULT_LIMIT = 1000
# The chart library makes style elements of its own; everything else stays as strict as on the other page.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
T = TypeVar("T")


@router.get("/stats/completed")
async def completed(request: Request) -> Response:
    """Completed tasks by bucket, and by kind or node with `by`."""
    span = replace(_span(request.query_params), only="completed")
    rows = await _ask(request, lambda s: s.counts(span))
    return _page(request, span, rows, tuple(filter(None, ("bucket", span.by, "completed"))))


@router.get("/stats/counts")
async def counts(request: Request) -> Response:
    """Every count by bucket, and by kind or node: received, started, completed, failed, cancelled, bytes, rates."""
    span = _span(request.query_params)
    return _page(request, span, await _ask(request, lambda s: s.counts(span)))


@router.get("/stats/durations")
async def durations(request: Request) -> Response:
    """Percentiles of queue wait and run time, in ms, by hour or longer buckets, and by kind with `by=name`."""
    span = _span(request.query_params, ("hour", "day", "week", "month"), ("", "name"))
    rows = await _ask(request, lambda s: s.durations(span))
    return _rows(request, rows[: span.limit])


@router.get("/stats/audits")
async def audits(request: Request) -> Response:
    """The newest audits."""
    limit = _limit(request.query_params)
    return _rows(request, await _ask(request, lambda s: s.audits(limit)))


@router.get("/stats/findings")
async def findings(request: Request) -> Response:
    """The tasks that audits have named, with what is wrong."""
    limit = _limit(request.query_params)
    return _rows(request, await _ask(request, lambda s: s.findings(limit)))


@router.get("/stats/summary")
async def summary(request: Request) -> Response:
    """Totals, pending, average starts, and the last audit with the ids that it names."""
    return _json(await _ask(request, lambda s: s.summary()))


@router.api_route("/stats", methods=["GET", "HEAD"], include_in_schema=False)
async def stats_page(request: Request) -> Response:
    found = await page_file("stats.html", request)
    found.headers["Content-Security-Policy"] = _POLICY
    return found


@router.api_route("/stats/plotly.js", methods=["GET", "HEAD"], include_in_schema=False)
async def plotly(request: Request) -> Response:
    """The chart library, from the script that its package carries."""
    packed, plain_size, etag = await asyncio.to_thread(_plotly)
    headers = {"ETag": etag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(packed, headers=headers | {"Content-Encoding": "gzip"}, media_type="text/javascript")
    plain = await asyncio.to_thread(gzip.decompress, packed)
    assert len(plain) == plain_size
    return Response(plain, headers=headers, media_type="text/javascript")


@cache
def _plotly() -> tuple[bytes, int, str]:
    """(the script, packed; its size; its ETag)"""
    raw = files("plotly").joinpath("package_data/plotly.min.js").read_bytes()
    return gzip.compress(raw, 6, mtime=0), len(raw), f'"{sha256(raw).hexdigest()[:32]}"'


async def _ask(request: Request, question: Callable[[StatisticsStore], T]) -> T:
    statistics = parts_of(request).statistics
    try:
        return await asyncio.to_thread(question, statistics)
    except DatabaseUnavailable as e:
        raise Problem("statistics-unavailable", str(e)) from None


def _span(
    query: Mapping[str, str], buckets: Sequence[str] = tuple(BUCKETS), by: Sequence[str] = tuple(DIMENSIONS)
) -> Span:
    bucket, dimension = query.get("bucket", "hour"), query.get("by", "")
    if bucket not in buckets:
        raise bad("bucket", f"bucket must be one of {', '.join(buckets)}")
    if dimension not in by:
        raise bad("by", f"by must be one of {', '.join(filter(None, by))}")
    return Span(
        bucket,
        dimension,
        time_of(query, "since"),
        time_of(query, "until"),
        query.get("name"),
        query.get("node"),
        _cursor(query),
        _limit(query),
    )


def _limit(query: Mapping[str, str]) -> int:
    text = query.get("limit", str(DEFAULT_LIMIT))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:10]) <= MAX_LIMIT):
        raise bad("limit", f"limit must be a whole number from 1 to {MAX_LIMIT}")
    return int(text)


def _cursor(query: Mapping[str, str]) -> tuple[datetime, str] | None:
    text = query.get("cursor", "")
    if not text:
        return None
    try:
        bucket, value = orjson.loads(base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4)))
        return datetime.fromisoformat(bucket), str(value)
    except (ValueError, TypeError):
        raise bad("cursor", "cursor must be the `next` of an earlier page") from None


def _page(request: Request, span: Span, rows: list[StatisticsRow], columns: Sequence[str] = ()) -> Response:
    """With `next` when there may be more. `columns`: those to be shown, all when empty."""
    following = None
    if len(rows) == span.limit:
        last = [rows[-1]["bucket"], rows[-1].get(span.by, "")]
        following = base64.urlsafe_b64encode(orjson.dumps(last)).decode().rstrip("=")
    return _rows(request, [{c: r[c] for c in columns} for r in rows] if columns else rows, following)


def _rows(request: Request, rows: list[StatisticsRow], following: str | None = None) -> Response:
    if request.query_params.get("format") != "csv":
        return _json({"items": rows, "next": following})
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows({k: _cell(v) for k, v in r.items()} for r in rows)
    name = request.url.path.rpartition("/")[2]
    headers = {"Content-Disposition": f'attachment; filename="{name}.csv"', "Cache-Control": "no-store"}
    return Response(text.getvalue(), headers=headers, media_type="text/csv; charset=utf-8")


def _cell(value: Any) -> Any:
    """Kinds and nodes are named by others: a spreadsheet must not take a name for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _json(body: Any) -> Response:
    return Response(orjson.dumps(body), headers={"Cache-Control": "no-store"}, media_type="application/json")
