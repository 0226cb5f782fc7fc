"""What a worker node's HTTP port reports: the reasons why it is not ready, and the figures of its stats page.

Called by `agents.worker.node` when it makes its Faust app. The functions handed over run at each request, in the event
loop, and answer from memory.
"""

from collections.abc import Callable

from headrace.contract.cluster import Wait
from headrace.contract.timestamps import format_rfc3339
from headrace.kafka.lag import LagWatch
from headrace.process.health import Health

from ..membership.fencing import Fence
from ..monitoring.stats_page import NodeView
from .parts import NodeResources, WorkerParts


def node_health(parts: WorkerParts, resources: NodeResources, fence: Fence, receiver_lag: LagWatch) -> Health:
    """The checks behind `/readyz`, each under the name that its reasons begin with."""
    health = Health()
    health.add_check("sender", resources.sender.check)
    health.add_check("intake", lambda: parts.intake.check() or parts.task_lag.check())
    health.add_check("control", parts.cancellations.check)
    health.add_check("kinds", parts.registry.check)
    health.add_check("delegation", parts.delegation.check)
    health.add_check("heartbeats", parts.heartbeats.check)
    health.add_check("fence", fence.check)
    health.add_check("reaper", parts.reaper.check)
    health.add_check("pool", resources.pool.check)
    health.add_check("receiver", parts.receiver.check)
    health.add_check("receiver's offsets", receiver_lag.check)
    health.add_check("worker agent", parts.worker.check)
    health.add_check("conservation", parts.conservation.check)
    health.add_notes(parts.log_notes.notes)
    health.add_notes(parts.cancellations.notes)
    health.add_notes(lambda: [_note(wait) for wait in parts.waits()])
    return health


def node_view(
    parts: WorkerParts, resources: NodeResources, health: Health, is_draining: Callable[[], bool]
) -> NodeView:
    """Where the stats page finds its figures."""
    node = resources.node
    return NodeView(
        node=node.name,
        boot=lambda: node.boot,
        pid=node.pid,
        started_ms=lambda: node.started_ms,
        slots=parts.slots.total,
        used=lambda: parts.slots.used,
        running=resources.pool.running,
        draining=is_draining,
        health=health,
        stats=parts.stats,
        waiting=parts.task_lag.waiting,
        waiting_age_s=parts.task_lag.age_s,
        partitions=lambda: parts.intake.places,
        limits_s={kind.name: kind.timeout_s for kind in resources.kinds},
        waits=parts.waits,
    )


def _note(wait: Wait) -> str:
    return f"{wait.text}; since {format_rfc3339(wait.since_ms)}"
