"""A running installation for the faults: its processes by role, its nodes, and how to add a node.

Made from a running `headrace up` (whose `run.json` lists the processes) or from a test's own cluster.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from confluent_kafka import KafkaException

from headrace.child.process_tree import processes
from headrace.kafka.client import Kafka
from headrace.settings import Settings

from ..local.process import free_port
from ..local.roles import Role, answers, reached_at, role_addresses

_PATIENCE_S = 120.0  # a supervisor waits up to 30 s before it restarts a role that keeps dying
_ANSWER_S = 5.0


@dataclass(slots=True)
class Installation:
    """`pids` returns the present process ids by role name: kafka, gateway, storekeeper, worker-1, …

    `extra` are the nodes that faults have added.
    """

    settings: Settings
    pids: Callable[[], Mapping[str, int]]
    extra: list[Role] = field(default_factory=list)
    _added: int = 0

    @property
    def url(self) -> str:
        """The first gateway's."""
        return self.urls[0]

    @property
    def urls(self) -> list[str]:
        """All gateways'."""
        return [f"http://{address}" for role, address in role_addresses(self.settings).values() if role == "gateway"]

    @property
    def kafka(self) -> Kafka:
        return Kafka(self.settings, "chaos")

    def nodes(self) -> dict[str, int]:
        """The running worker roles -> process id."""
        found = {name: pid for name, pid in self.pids().items() if name.startswith("worker") and alive(pid)}
        return found | {n.name: n.pid for n in self.extra if n.alive}

    def supervised_nodes(self) -> dict[str, int]:
        """The nodes that are restarted when they die."""
        extra = {n.name for n in self.extra}
        return {name: pid for name, pid in self.nodes().items() if name not in extra}

    def wait_role(self, role: str, not_pid: int) -> float:
        """Waits until the role runs with another process id than `not_pid` and is ready; returns the seconds.

        TimeoutError when that takes too long.
        """
        begun = time.monotonic()
        while time.monotonic() - begun < _PATIENCE_S:
            pid = self.pids().get(role, 0)
            if (
                pid
                and pid != not_pid
                and alive(pid)
                and (self.in_sync(role) if _is_broker(role) else self._ready(role))
            ):
                return time.monotonic() - begun
            time.sleep(0.1)
        raise TimeoutError(f"{role} did not come back within {_PATIENCE_S:.0f} s")

    def add_node(self) -> Role:
        """Starts a worker node that nothing supervises; returns when it is ready."""
        self._added += 1
        name = f"extra-{self._added}-{os.getpid()}"  # always new: a known name would be that node's next boot
        own = replace(self.settings, stats_http=f"127.0.0.1:{free_port()}", node=name)
        node = Role(name, "worker", own, own.stats_http, "HEADRACE_STATS_HTTP", self.settings.data / "logs")
        node.launch()
        self.extra.append(node)
        node.wait_ready(_PATIENCE_S)
        return node

    def running(self, role: str) -> list[str]:
        """The names of the running processes of a role: `storekeeper` -> storekeeper, storekeeper-2, …"""
        return sorted(n for n, pid in self.pids().items() if n.partition("-")[0] == role and alive(pid))

    def brokers(self) -> list[str]:
        """The role names of the running brokers."""
        return self.running("kafka")

    def in_sync(self, broker: str) -> bool:
        """Whether that broker answers, and reports a leader and all replicas in sync for every partition.

        Ask the broker that was killed: for two seconds the others do not know yet that it is away.
        """
        servers = self.settings.kafka.split(",")
        number = broker.removeprefix("kafka").removeprefix("-")
        own = replace(self.settings, kafka=servers[int(number) - 1] if number else servers[0])
        try:
            found = Kafka(own, "chaos").admin().list_topics(timeout=_ANSWER_S).topics
        except KafkaException:
            return False
        partitions = [p for t in found.values() for p in t.partitions.values()]
        return bool(partitions) and all(p.leader >= 0 and len(p.isrs) == len(p.replicas) for p in partitions)

    def close(self) -> None:
        """Stops the added nodes."""
        for node in self.extra:
            node.stop(40)

    def _ready(self, role: str) -> bool:
        _, address = role_addresses(self.settings).get(role, ("", ""))
        return not address or answers(*reached_at(address), "/readyz")


def _is_broker(role: str) -> bool:
    return role == "kafka" or role.startswith("kafka-")


def node_name(pid: int) -> str:
    """The HEADRACE_NODE of a process, which the ledger contains; "" when the process has ended."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    return next((v.partition(b"=")[2].decode() for v in variables if v.startswith(b"HEADRACE_NODE=")), "")


def pool_children(node_pid: int) -> list[int]:
    """The processes that run attempts: the children of the node's forkserver, and the runners below them."""
    seen = processes()
    servers = {p.pid for p in seen.values() if p.parent == node_pid}
    children = {p.pid for p in seen.values() if p.parent in servers}
    return [p.pid for p in seen.values() if p.pid in children or p.parent in children]


def alive(pid: int) -> bool:
    found = processes().get(pid)
    return found is not None and not found.zombie


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Sends the signal to that one process, if it still runs."""
    if pid <= 1:  # a role that does not run: to kill(2), 0 is our own group and -1 every process of the machine
        return
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it ended by itself
