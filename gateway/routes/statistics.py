"""GET /stats/…: the statistics as JSON or CSV, and the page with their charts.

All numbers come from the database that `headrace analytics` writes. Problem statistics-unavailable while it does not
answer. Buckets are UTC, weeks start on Monday, and time ranges are widened to whole buckets.
"""

import asyncio
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
from starlette.requests import Request
from starlette.responses import Response

from ..http.problems import Problem
from ..http.query import bad_cursor, bad_parameter, decode_base64, encode_base64, parse_limit, parse_time
from ..http.responses import NO_STORE, json_response, not_modified, page_policy
from ..http.router import Router, takes
from ..page.routes import serve_file
from ..statistics_store import (
    BUCKETS,
    DIMENSIONS,
    DatabaseUnavailable,
    StatisticsQuery,
    StatisticsRow,
    StatisticsStore,
)
from .dependencies import dependencies_of

router = Router()

MAX_LIMIT = 10_000
DEFAULT_LIMIT = 1000
# The chart library adds style elements of its own.
_POLICY = page_policy(style="'self' 'unsafe-inline'", images="'self' data: blob:")
T = TypeVar("T")
_COUNTS = takes("bucket", "by", "since", "until", "name", "node", "limit", "cursor", "format")


@router.get("/stats/completed", openapi_extra=_COUNTS)
async def completed(request: Request) -> Response:
    """Completed tasks by bucket, and by kind or node with `by`."""
    query = replace(_parse_query(request.query_params), only="completed")
    rows = await _query_store(request, lambda s: s.counts(query))
    return _page_response(request, query, rows, tuple(filter(None, ("bucket", query.by, "completed"))))


@router.get("/stats/counts", openapi_extra=_COUNTS)
async def counts(request: Request) -> Response:
    """All counts by bucket, and by kind or node with `by`: the events, bytes stored, and rates."""
    query = _parse_query(request.query_params)
    return _page_response(request, query, await _query_store(request, lambda s: s.counts(query)))


@router.get(
    "/stats/durations", openapi_extra=takes("bucket", "by", "since", "until", "name", "limit", "cursor", "format")
)
async def durations(request: Request) -> Response:
    """Percentiles of queue wait and run time in ms, by hour or a longer bucket, and by kind with `by=name`."""
    query = _parse_query(request.query_params, ("hour", "day", "week", "month"), ("", "name"))
    rows = await _query_store(request, lambda s: s.durations(query))
    return _page_response(request, query, rows[: query.limit])


@router.get("/stats/audits", openapi_extra=takes("limit", "cursor", "format"))
async def audits(request: Request) -> Response:
    """The audits, newest first."""
    limit, after = _limit(request.query_params), _parse_row_cursor(request.query_params, 1)
    rows = await _query_store(request, lambda s: s.audits(limit, *after))
    return _rows_response(request, rows, _row_cursor(rows, limit, "at"))


@router.get("/stats/findings", openapi_extra=takes("limit", "cursor", "format"))
async def findings(request: Request) -> Response:
    """The tasks that audits found lost, repeated or never received, newest first."""
    limit, after = _limit(request.query_params), _parse_row_cursor(request.query_params, 4)
    rows = await _query_store(request, lambda s: s.findings(limit, after))
    return _rows_response(request, rows, _row_cursor(rows, limit, "found_at", "id", "verdict", "event"))


@router.get("/stats/summary")
async def summary(request: Request) -> Response:
    """Totals, pending tasks, average starts, and the last audit with the ids of its findings."""
    return json_response(await _query_store(request, lambda s: s.summary()))


@router.get("/stats", include_in_schema=False)
async def stats_page(request: Request) -> Response:
    return serve_file("stats.html", request, _POLICY)


@router.get("/stats/plotly.js", include_in_schema=False)
async def plotly(request: Request) -> Response:
    """The chart library, from its Python package."""
    packed, plain_size, etag = await asyncio.to_thread(_plotly)
    headers = {"ETag": etag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    if (unchanged := not_modified(request, headers)) is not None:
        return unchanged
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(packed, headers=headers | {"Content-Encoding": "gzip"}, media_type="text/javascript")
    plain = await asyncio.to_thread(gzip.decompress, packed)
    assert len(plain) == plain_size
    return Response(plain, headers=headers, media_type="text/javascript")


@cache
def _plotly() -> tuple[bytes, int, str]:
    """(the script compressed with gzip, its uncompressed size, its ETag)."""
    raw = files("plotly").joinpath("package_data/plotly.min.js").read_bytes()
    return gzip.compress(raw, 6, mtime=0), len(raw), f'"{sha256(raw).hexdigest()[:32]}"'


async def _query_store(request: Request, query: Callable[[StatisticsStore], T]) -> T:
    if request.query_params.get("format", "json") not in ("json", "csv"):
        raise bad_parameter("format", "format must be json or csv")
    statistics = dependencies_of(request).statistics
    try:
        return await asyncio.to_thread(query, statistics)
    except DatabaseUnavailable as e:
        raise Problem("statistics-unavailable", str(e)) from None


def _parse_query(
    query: Mapping[str, str], buckets: Sequence[str] = tuple(BUCKETS), by: Sequence[str] = tuple(DIMENSIONS)
) -> StatisticsQuery:
    bucket, dimension = query.get("bucket", "hour"), query.get("by", "")
    if bucket not in buckets:
        raise bad_parameter("bucket", f"bucket must be one of {', '.join(buckets)}")
    if dimension not in by:
        raise bad_parameter("by", f"by must be one of {', '.join(filter(None, by))}")
    return StatisticsQuery(
        bucket=bucket,
        by=dimension,
        since=parse_time(query, "since"),
        until=parse_time(query, "until"),
        name=query.get("name"),
        node=query.get("node"),
        after=_parse_cursor(query),
        limit=_limit(query),
    )


def _limit(query: Mapping[str, str]) -> int:
    return parse_limit(query, DEFAULT_LIMIT, MAX_LIMIT)


def _parse_cursor(query: Mapping[str, str]) -> tuple[datetime, str] | None:
    text = query.get("cursor", "")
    if not text:
        return None
    try:
        bucket, value = orjson.loads(decode_base64(text))
        return datetime.fromisoformat(bucket), str(value)
    except (ValueError, TypeError):
        raise bad_cursor() from None


def _parse_row_cursor(query: Mapping[str, str], length: int) -> list[Any]:
    """What `_row_cursor` put into the page before: a time and texts; empty for the first page."""
    text = query.get("cursor", "")
    if not text:
        return []
    try:
        at, *rest = orjson.loads(decode_base64(text))
        if len(rest) + 1 != length:
            raise ValueError
        return [datetime.fromisoformat(at), *map(str, rest)]
    except (ValueError, TypeError):
        raise bad_cursor() from None


def _row_cursor(rows: list[StatisticsRow], limit: int, *columns: str) -> str | None:
    """A cursor behind the last row, when there may be more."""
    return encode_base64(orjson.dumps([rows[-1][c] for c in columns])) if rows and len(rows) == limit else None


def _page_response(
    request: Request, query: StatisticsQuery, rows: list[StatisticsRow], columns: Sequence[str] = ()
) -> Response:
    """A page of rows, with a cursor when there may be more. `columns`: the ones to show; empty = all."""
    next_cursor = None
    if len(rows) == query.limit:
        last = [rows[-1]["bucket"], rows[-1].get(query.by, "")]
        next_cursor = encode_base64(orjson.dumps(last))
    return _rows_response(request, [{c: r[c] for c in columns} for r in rows] if columns else rows, next_cursor)


def _rows_response(request: Request, rows: list[StatisticsRow], next_cursor: str | None = None) -> Response:
    if request.query_params.get("format") != "csv":
        return json_response({"items": rows, "next": next_cursor})
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows({k: _cell(v) for k, v in r.items()} for r in rows)
    name = request.url.path.rpartition("/")[2]
    headers = NO_STORE | {"Content-Disposition": f'attachment; filename="{name}.csv"'}
    return Response(text.getvalue(), headers=headers, media_type="text/csv; charset=utf-8")


def _cell(value: Any) -> Any:
    """Keeps a spreadsheet from taking the name of a kind or node for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
