"""An installation of real processes for tests and benchmarks: broker, topics and roles in a folder, on free ports.

    with LocalCluster(tmp_path, bootstrap=broker, prefix="t1.", workers=2) as cluster:
        httpx.post(f"{cluster.gateway_url}/tasks", json=...)
        cluster.kill("worker-1")

Roles have the names that `up` uses: gateway, gateway-2, …, storekeeper, …, worker-1, …. A broker of the cluster's own
is `kafka`; three of them are `kafka-1` to `kafka-3`. StartError with the last line of a log when a part does not start.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from confluent_kafka.admin import AdminClient

from headrace.child.user import shared_scratch
from headrace.kafka.client import load_security
from headrace.kafka.topics import apply_topics
from headrace.settings import Settings

from .kafka import EmbeddedKafka, embedded_cluster
from .process import bind_error, free_port
from .roles import COUNTED, machine_roles
from .service import Service, StartError
from .supervisor import Supervisor

_STOP_ORDER = ("worker-", "gateway", "storekeeper", "kafka")
_HOST = "127.0.0.1"


class LocalCluster:
    """Started on entry, killed on exit. A role that dies stays dead; `supervised` restarts it, as `up` does."""

    def __init__(
        self,
        folder: Path,
        *,
        bootstrap: str = "",
        prefix: str = "",
        partitions: int = 4,
        brokers: int = 1,
        roles: tuple[str, ...] = ("gateway", "storekeeper", "worker"),
        supervised: bool = False,
        say: Callable[[str], None] = lambda _line: None,
        **settings: Any,
    ) -> None:
        """`bootstrap`: a broker to use; else the cluster starts `brokers` of its own, three of which replicate all
        records. `partitions`: of every keyed topic. `settings`: other fields of Settings, the numbers of processes
        of a role among them."""
        self.folder = folder.absolute()
        self.brokers = [] if bootstrap else _brokers(self.folder, brokers)
        counts = {name: int(settings.pop(name, 1)) for name, _ in COUNTED.values()}
        counts["workers"] = counts["workers"] if "worker" in roles else 0
        values: dict[str, Any] = {
            "data": self.folder,
            "kafka": bootstrap or ",".join(b.bootstrap for b in self.brokers),
            "topic_prefix": prefix,
            "results": str(self.folder / "results"),
            "slots": 2,
            "node": "node",
            **counts,
            **{address: f"{_HOST}:{free_ports(max(1, counts[count]))}" for count, address in COUNTED.values()},
        } | settings
        self.settings = Settings(**values)
        self._partitions = partitions
        self._supervisor = Supervisor(say, lambda _pids: None) if supervised else None
        made = machine_roles(self.settings, self.folder / "logs")
        self.services: dict[str, Service] = {r.name: r for r in made if r.name.split("-")[0] in roles}

    @property
    def gateway_url(self) -> str:
        return f"http://{self.settings.http}"

    def start(self) -> None:
        if self.brokers:
            kafka: dict[str, Service] = {b.name: b for b in self.brokers}
            self.services = {**kafka, **self.services}
            self._start(kafka)
        admin = AdminClient({"bootstrap.servers": self.settings.kafka, **load_security(self.settings.kafka_security)})
        apply_topics(admin, self.settings.topic_prefix, self._partitions)
        self._start({n: s for n, s in self.services.items() if s not in self.brokers})

    def pid(self, role: str) -> int:
        """The role's process id; 0 while it does not run."""
        return self.services[role].pid

    def pids(self) -> dict[str, int]:
        return {name: s.pid for name, s in self.services.items() if s.pid}

    def kill(self, role: str) -> None:
        """SIGKILL to the role and its process group."""
        self.services[role].kill()

    def stop(self, role: str, grace_s: float | None = None) -> bool:
        """SIGTERM; False when it had to be killed after `grace_s` seconds (default: the drain time and 10 s)."""
        return self.services[role].stop(self.settings.drain_s + 10 if grace_s is None else grace_s)

    def restart(self, role: str) -> float:
        """Kills the role, starts it and waits until it is ready; returns the seconds of the start."""
        self.kill(role)
        return self.services[role].start()

    def close(self) -> None:
        """Kills everything; tests of an orderly stop call `stop` before."""
        if self._supervisor is not None:
            self._supervisor.end()
        for stage in _STOP_ORDER:
            for name, service in self.services.items():
                if name.startswith(stage):
                    service.kill()
        scratch = shared_scratch(self.settings.data, "*")
        for folder in scratch.parent.glob(scratch.name):  # of killed workers
            shutil.rmtree(folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _start(self, services: Mapping[str, Service]) -> None:
        if self._supervisor is not None:
            for watch in [self._supervisor.watch(s) for s in services.values()]:
                if not watch.settled.wait(120) or watch.failure:
                    raise StartError(
                        f"{watch.service.name} does not start: {watch.failure or watch.service.last_line()}"
                    )
            return
        for service in services.values():
            service.launch()
        for service in services.values():
            service.wait_ready()


def _brokers(folder: Path, count: int) -> list[EmbeddedKafka]:
    if count == 1:
        return [EmbeddedKafka(folder / "kafka", f"{_HOST}:{free_port()}")]
    return embedded_cluster(folder, [free_port() for _ in range(count)])


def free_ports(count: int) -> int:
    """The first of `count` consecutive free ports."""
    while True:
        first = free_port()
        if first + count < 65536 and not any(bind_error(_HOST, first + i) for i in range(count)):
            return first
