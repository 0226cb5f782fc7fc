"""The process of a worker node. Found by the command line as the role `worker`.

Takes the node's lock, then brings up the children and imports Faust side by side, each as long as the other; all else
is put together in `agents.worker.node`. UsageError for what a person has to put right; exit code 0 after a drain, 1
when the node ends by an error, so that whoever runs it starts it again.
"""

import logging
import signal
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from agents.execution.pool import Pool
from agents.execution.resource_limits import Limits
from agents.execution.task_users import scratch_folder, task_users
from agents.membership.identity import NodeIdentity
from headrace.contract.cluster import KindInfo
from headrace.errors import UsageError
from headrace.kafka.client import Kafka
from headrace.settings import Settings

log = logging.getLogger(__name__)


def main(settings: Settings, **faults: Any) -> int:
    """Runs until SIGTERM or SIGINT; `faults` are handed to the node, for fault tests."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))  # until the event loop takes them over
    kafka = Kafka(settings, f"headrace-worker-{settings.node_name}")
    node = NodeIdentity(settings.node_name, settings.data)
    before = node.take_lock()
    pool = _pool(settings, node)
    with ThreadPoolExecutor(1, thread_name_prefix="start") as starter:
        kinds: Future[list[KindInfo]] = starter.submit(pool.start)
        from agents.worker.node import run  # here, since importing Faust takes half a second

        try:
            return run(settings, kafka, node, before, pool, kinds, **faults)
        finally:
            if kinds.done() and kinds.exception() is None:
                pool.stop()


def _pool(settings: Settings, node: NodeIdentity) -> Pool:
    try:
        settings.results_root.mkdir(parents=True, exist_ok=True)
        users = task_users(settings)
        return Pool(
            settings.tasks,
            settings.slot_count,
            scratch_folder(settings, node.name, users),
            results_root=settings.results_root.resolve(),
            children_lock=node.children_lock_path.resolve(),
            users=users,
            limits=Limits(settings.slot_memory_mb, settings.scratch_mb),
            adopts=True,
        )
    except OSError as e:
        raise UsageError(f"{e.filename} cannot be made: {e.strerror}") from None
