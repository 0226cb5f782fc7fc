"""GET /kinds and GET /nodes: what can be run here, and who runs it."""

from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gateway.routes.dependencies import parts_of
from gateway.view.cluster import LIVE_S, KnownNode
from gateway.view.task_events import moment

router = APIRouter()


@router.get("/kinds")
async def kinds(request: Request) -> Response:
    """Every kind that was announced: schema, limits, and the live nodes that announce it."""
    found = parts_of(request).cluster.kinds()
    return _json({"items": [kind.to_json() | {"live": live} for kind, live in found], "next": None})


@router.get("/nodes")
async def nodes(request: Request) -> Response:
    """Nodes heard of in the last ten minutes."""
    found = parts_of(request).cluster.nodes()
    return _json({"items": [node_json(n, seen_s) for n, seen_s in found], "next": None})


def node_json(node: KnownNode, seen_s: float) -> dict[str, Any]:
    """A node as readers see it. `seen_s`: seconds since its last heartbeat came in."""
    beat = node.beat
    state = "silent" if beat.state != "dead" and seen_s > LIVE_S else beat.state
    running = [
        {"id": r.id, "name": r.name, "attempt": r.attempt, "started_at": moment(r.started_ms)} for r in beat.running
    ]
    return {
        "node": beat.node,
        "host": beat.host,
        "pid": beat.pid,
        "slots": beat.slots,
        "running": running,
        "seen_s": round(seen_s, 1),
        "state": state,
        "kinds": sorted(beat.kinds),
        "boot": beat.boot,
        "started_at": moment(beat.started_ms),
        "stats_url": beat.stats_url,
        "release": beat.release,
    }


def _json(body: object) -> Response:
    return Response(orjson.dumps(body), media_type="application/json", headers={"Cache-Control": "no-store"})
