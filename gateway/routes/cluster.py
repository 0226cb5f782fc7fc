"""GET /kinds and GET /nodes: the registered task kinds, and the nodes that run them."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from headrace.contract.cluster import Wait

from ..http.responses import json_response
from ..http.router import Router
from ..view.cluster import LIVE_S, KnownNode
from ..view.task_events import rfc3339
from .dependencies import dependencies_of

router = Router()


@router.get("/kinds")
async def kinds(request: Request) -> Response:
    """Every registered kind: its schema, its limits, and the live nodes that announce it."""
    found = dependencies_of(request).cluster.kinds()
    return json_response({"items": [kind.to_json() | {"live": live} for kind, live in found], "next": None})


@router.get("/nodes")
async def nodes(request: Request) -> Response:
    """The newest boot of each node with a heartbeat in the last ten minutes."""
    deps = dependencies_of(request)
    reachable = deps.broker_probe.unavailable is None
    items = [node_json(node, age_s, reachable) for node, age_s in deps.cluster.nodes()]
    return json_response({"items": items, "next": None})


def node_json(node: KnownNode, age_s: float, is_kafka_reachable: bool = True) -> dict[str, Any]:
    """A node as GET /nodes shows it. `age_s`: seconds since its last heartbeat.

    `state` is alive, draining, drained (it ended in order) or dead: it was declared dead, or is silent for ten seconds
    while Kafka answers.
    """
    heartbeat = node.heartbeat
    state: str = "drained" if heartbeat.drained else heartbeat.state
    if state != "drained" and age_s > LIVE_S and is_kafka_reachable:
        state = "dead"
    running = [
        {"id": r.id, "name": r.name, "attempt": r.attempt, "started_at": rfc3339(r.started_ms)}
        for r in heartbeat.running
    ]
    return {
        "node": heartbeat.node,
        "host": heartbeat.host,
        "pid": heartbeat.pid,
        "slots": heartbeat.slots,
        "running": running,
        "seen_s": round(age_s, 1),
        "state": state,
        "kinds": sorted(heartbeat.kinds),
        "boot": heartbeat.boot,
        "started_at": rfc3339(heartbeat.started_ms),
        "stats_url": heartbeat.stats_url,
        "release": heartbeat.release,
        "waits": [] if state in ("drained", "dead") else [_wait_json(w) for w in heartbeat.waits],
    }


def _wait_json(wait: Wait) -> dict[str, Any]:
    return {
        "why": wait.why,
        "name": wait.name,
        "task": wait.task,
        "count": wait.count,
        "since": rfc3339(wait.since_ms),
        "source": wait.source,
        "text": wait.text,
    }
