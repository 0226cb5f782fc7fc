"""The worker node's stats page: `/` for people, `/stats.json` for programs, on the port of its Faust app.

The page is three files in `page/` that draw what `/stats.json` returns; a browser loads nothing from elsewhere. All
figures are in memory, so it answers while Kafka is away and while the node drains. Used by `agents.worker.node`.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import faust

from headrace import __version__
from headrace.contract.cluster import RunningAttempt, Wait
from headrace.contract.timestamps import format_rfc3339
from headrace.process.health import Health

from .stats import BUCKET_S, Bucket, NodeStats

_FILES = {
    "/": ("stats.html", "text/html"),
    "/stats.css": ("stats.css", "text/css"),
    "/stats.js": ("stats.js", "text/javascript"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class NodeView:
    """Where the page finds its figures. The functions are called at each request, in the event loop."""

    node: str
    boot: Callable[[], str]
    pid: int
    started_ms: Callable[[], int]
    slots: int
    used: Callable[[], int]
    running: Callable[[], Iterable[RunningAttempt]]
    draining: Callable[[], bool]
    health: Health
    stats: NodeStats
    waiting: Callable[[], Mapping[str, int] | None]
    waiting_age_s: Callable[[], float | None]
    partitions: Callable[[], Iterable[tuple[str, int]]]
    limits_s: Mapping[str, float]  # each kind's time limit
    waits: Callable[[], Iterable[Wait]] = tuple  # what stands still


def add_stats_page(app: faust.App, view: NodeView) -> None:
    """Adds the routes of the page; call it before the app starts."""
    for path, (name, content_type) in _FILES.items():
        _add_file(app, path, resources.files(__package__).joinpath("page", name).read_bytes(), content_type)

    @app.page("/stats.json")
    async def stats_json(web: Any, _request: Any) -> Any:
        """All figures of the page."""
        return web.json(describe(view), headers={"Cache-Control": "no-store"})


def describe(view: NodeView) -> dict[str, Any]:
    """The figures as JSON: times in RFC 3339 (UTC), durations in seconds."""
    reasons = view.health.reasons()
    used, now_ms = view.used(), time.time_ns() // 1_000_000
    waiting = view.waiting()
    return {
        "node": view.node,
        "boot": view.boot(),
        "pid": view.pid,
        "version": __version__,
        "at": format_rfc3339(now_ms),
        "started_at": format_rfc3339(view.started_ms()),
        "state": "draining" if view.draining() else "not ready" if reasons else "ready",
        "reasons": reasons,
        "slots": {"total": view.slots, "used": used, "free": max(0, view.slots - used)},
        "running": [
            _describe_attempt(r, now_ms, view.limits_s) for r in sorted(view.running(), key=lambda r: r.started_ms)
        ],
        "waiting": {
            "normal": waiting["tasks.normal"] if waiting else None,
            "high": waiting["tasks.high"] if waiting else None,
            "age_s": _rounded(view.waiting_age_s()),
        },
        "kinds": [_describe_kind(view.stats, name) for name in sorted({*view.limits_s, *view.stats.kinds})],
        "waits": [_describe_wait(w) for w in view.waits()],
        "partitions": _partitions(view.partitions()),
        "history": {
            "bucket_s": BUCKET_S,
            "items": [_describe_bucket(b) for b in view.stats.history()],
        },
    }


def _describe_attempt(attempt: RunningAttempt, now_ms: int, limits_s: Mapping[str, float]) -> dict[str, Any]:
    return {
        "id": attempt.id,
        "name": attempt.name,
        "attempt": attempt.attempt,
        "started_at": format_rfc3339(attempt.started_ms),
        "runs_s": max(0, now_ms - attempt.started_ms) / 1000,
        "timeout_s": limits_s.get(attempt.name),
    }


def _describe_wait(w: Wait) -> dict[str, Any]:
    since = format_rfc3339(w.since_ms)
    return {"why": w.why, "name": w.name, "task": w.task, "count": w.count, "since": since, "text": w.text}


def _describe_bucket(b: Bucket) -> dict[str, Any]:
    at = format_rfc3339(b.at * 1000)
    return {"at": at, "done": b.done, "failed": b.failed, "used": round(b.used, 2), "waiting": b.waiting}


def _describe_kind(stats: NodeStats, name: str) -> dict[str, Any]:
    kind = stats.kinds.get(name)
    if kind is None:
        return {
            "name": name,
            "done": 0,
            "failed": 0,
            "retried": 0,
            "causes": {},
            "p50_s": None,
            "p90_s": None,
            "p99_s": None,
        }
    percentiles = {f"p{n}_s": kind.percentile(n / 100) for n in (50, 90, 99)}
    return {
        "name": name,
        "done": kind.done,
        "failed": kind.failed,
        "retried": kind.retried,
        "causes": dict(kind.causes),
    } | percentiles


def _partitions(places: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for topic, partition in sorted(places):
        found.setdefault(topic, []).append(partition)
    return found


def _add_file(app: faust.App, path: str, raw: bytes, content_type: str) -> None:
    @app.page(path, name=f"file{path}")
    async def file(web: Any, _request: Any) -> Any:
        return web.bytes(raw, headers={**_HEADERS, "Content-Type": f"{content_type}; charset=utf-8"})


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
