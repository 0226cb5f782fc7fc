"""Headrace: gateway, storekeeper and worker. `native` submits through Kafka, `web` through the gateway.

`reused` is native with kinds that reuse their process, as the peers do; by default each attempt has one of its own.

Results are files with fsync, as always. The tasks run as the worker's own user (as the peers' do), as they append to
files of the measurement.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka.admin import AdminClient

from infra.local.cluster import LocalCluster

from ..bench import Bench
from ..native_client import NativeClient
from ..processes import existing, tree
from ..system import Handle, System
from ..web_client import WebClient
from ..work import PARAMETERS

_FOLDER = Path(__file__).parents[1]

_KINDS = {"reused": "headrace_reused_kinds.py"}
_WORKER = "worker-1"
_PARTITIONS = 16  # as topics.yaml has it


class Sys(System):
    slots = 2

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.is_web = bench.variant == "web"
        bench.folder.chmod(0o777)
        self._prefix = f"{bench.namespace}."
        self._cluster = LocalCluster(
            bench.folder / "headrace",
            bootstrap=bench.kafka,
            prefix=self._prefix,
            partitions=_PARTITIONS,
            slots=self.slots,
            tasks=str(_FOLDER / _KINDS.get(bench.variant, "headrace_kinds.py")),
            task_user="same",
        )
        self.address = self._cluster.settings.http

    # --- the worker
    def start_worker(self) -> None:
        self._cluster.services[_WORKER].launch()

    def worker_tree(self) -> list[psutil.Process]:
        pid = self._cluster.pid(_WORKER)
        return tree(pid) if pid else []

    def worker_state(self) -> str:
        return "alive" if self._cluster.pid(_WORKER) else f"exited {self._cluster.services[_WORKER].returncode}"

    def kill_worker(self) -> None:
        self._cluster.kill(_WORKER)

    def roles(self) -> dict[str, list[psutil.Process]]:
        worker = self.worker_tree()
        return {
            "worker": worker[:1],
            "children": worker[1:],
            "gateway": existing([self._cluster.pid("gateway")]),
            "storekeeper": existing([self._cluster.pid("storekeeper")]),
            "broker": existing(self.bench.brokers.values()),
            "client": [psutil.Process()],
        }

    # --- the client
    def open(self) -> None:
        worker = self._cluster.services.pop(_WORKER)
        self._cluster.start()
        self._cluster.services[_WORKER] = worker
        self._client: Any = WebClient(self.address) if self.is_web else NativeClient(self.bench.kafka, self._prefix)

    def submit(self, name: str, *args: Any, priority: str = "normal") -> Handle:
        if self.is_web:
            return self._client.submit(_task(name, args) | {"priority": _priority(priority)})
        return self._client.submit(_task(name, args), priority)

    def submit_many(self, name: str, calls: Iterable[tuple[Any, ...]], priority: str = "normal") -> Any:
        tasks = (_task(name, call) for call in calls)
        if self.is_web:
            return self._client.submit_many(task | {"priority": _priority(priority)} for task in tasks)
        return self._client.submit_many(tasks, priority)

    def wait(self, handle: Handle, timeout_s: float = 60.0) -> object:
        return self._client.wait(handle, timeout_s)

    def close(self) -> None:
        """Ends the roles, the worker last so that its claims end, and deletes the run's topics."""
        self._client.close()
        self._cluster.close()
        admin = AdminClient({"bootstrap.servers": self.bench.kafka})
        ours = [t for t in admin.list_topics(timeout=10).topics if t.startswith(self._prefix)]
        for deleted in admin.delete_topics(ours).values():
            deleted.result()

    def stop(self) -> None:
        self.close()


def _task(name: str, call: tuple[Any, ...]) -> dict[str, Any]:
    return {"name": name, "payload": dict(zip(PARAMETERS[name], call, strict=True)), "directory": "bench"}


def _priority(priority: str) -> str:
    return "high" if priority == "high" else "normal"
