"""The process of a worker node, which the command line starts as the role `worker`.

Takes the node's lock, then starts the pool's children and imports Faust at the same time, because both take equally
long; `agents.worker.node` does the rest. UsageError for what a person must put right. Exit code 0 after a drain; 1
after an error, so that a supervisor starts the node again.
"""

import logging
import signal
import sys
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from headrace.contract.cluster import KindInfo
from headrace.errors import UsageError
from headrace.kafka.client import Kafka
from headrace.settings import Settings

from ..execution.pool import Pool
from ..execution.resource_limits import Limits
from ..execution.task_users import scratch_folder, task_users
from ..membership.identity import NodeIdentity

log = logging.getLogger(__name__)

_LOOK_S = 0.1


def main(settings: Settings, **faults: Any) -> int:
    """Runs until SIGTERM or SIGINT; `faults` go to the node, for fault tests."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))  # until the event loop handles them
    kafka = Kafka(settings, f"headrace-worker-{settings.node_name}")
    settings.make_data_folder()
    node = NodeIdentity(settings.node_name, settings.data)
    predecessor = node.take_lock()
    pool = _make_pool(settings, node)
    with ThreadPoolExecutor(1, thread_name_prefix="start") as starter:
        kinds: Future[list[KindInfo]] = starter.submit(pool.start)
        try:
            from .node import run  # here, since importing Faust takes half a second

            return run(settings, kafka, node, predecessor, pool, kinds, **faults)
        finally:
            _end_pool(pool, kinds)


def _end_pool(pool: Pool, kinds: "Future[list[KindInfo]]") -> None:
    """Ends the children, also those that still import the kinds: this process could not exit before them."""
    while not kinds.done():
        pool.kill_all()
        wait([kinds], _LOOK_S)
    if kinds.exception() is None:
        pool.stop()


def _make_pool(settings: Settings, node: NodeIdentity) -> Pool:
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
            import_s=settings.import_s,
            alone_wait_s=settings.alone_wait_s,
        )
    except OSError as e:
        raise UsageError(f"{e.filename} cannot be created: {e.strerror}") from None
