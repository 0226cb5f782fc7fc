"""A running installation as the faults see it: its nodes, its processes by role, and how to add a node.

Built over `headrace up` (whose `run.json` names the processes) or over a test's own cluster.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx

from headrace.kafka import Kafka
from headrace.settings import Settings
from infra.local.service import Service

_PATIENCE_S = 60.0


@dataclass(slots=True)
class Installation:
    """`pids` gives role name -> process id at the moment: kafka, gateway, storekeeper, worker-1, …"""

    settings: Settings
    pids: Callable[[], Mapping[str, int]]
    extra: list["ExtraNode"] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.settings.http}"

    @property
    def kafka(self) -> Kafka:
        return Kafka(self.settings, "chaos")

    def nodes(self) -> dict[str, int]:
        """Worker roles that run now -> process id."""
        found = {name: pid for name, pid in self.pids().items() if name.startswith("worker") and alive(pid)}
        return found | {n.name: n.pid for n in self.extra if n.alive}

    def supervised_nodes(self) -> dict[str, int]:
        """Those of them that are started again when they die."""
        extra = {n.name for n in self.extra}
        return {name: pid for name, pid in self.nodes().items() if name not in extra}

    def wait_role(self, role: str, not_pid: int) -> float:
        """Seconds until the role runs under another process id than `not_pid` and, for roles that say so, is ready."""
        begun = time.monotonic()
        while time.monotonic() - begun < _PATIENCE_S:
            pid = self.pids().get(role, 0)
            if pid and pid != not_pid and alive(pid) and self._ready(role):
                return time.monotonic() - begun
            time.sleep(0.1)
        raise TimeoutError(f"{role} has not come back in {_PATIENCE_S:.0f} s")

    def add_node(self) -> "ExtraNode":
        node = ExtraNode(self.settings, len(self.extra) + 1)
        node.launch()
        self.extra.append(node)
        node.wait_ready(_PATIENCE_S)
        return node

    def close(self) -> None:
        for node in self.extra:
            node.stop(40)

    def _ready(self, role: str) -> bool:
        addresses = {"gateway": self.settings.http, "storekeeper": self.settings.storekeeper_http}
        return role not in addresses or answers(f"http://{addresses[role]}/readyz")


class ExtraNode(Service):
    """A worker node beside those that the installation supervises."""

    def __init__(self, settings: Settings, number: int) -> None:
        name = f"extra-{number}-{os.getpid()}"
        super().__init__(name, Path(settings.data) / "logs" / f"{name}.log")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self._settings = replace(settings, stats_http=f"127.0.0.1:{port}", node=name)

    def command(self) -> list[str]:
        return [sys.executable, "-m", "headrace.cli.main", "worker"]

    def environ(self) -> Mapping[str, str]:
        return {**os.environ, **self._settings.environ()}

    def ready(self) -> bool:
        return answers(f"http://{self._settings.stats_http}/readyz")


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).status_code == 200
    except httpx.HTTPError:
        return False


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def node_name(pid: int) -> str:
    """What the node with that process calls itself, as the ledger names it; "" when it has ended."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    return next((v.partition(b"=")[2].decode() for v in variables if v.startswith(b"HEADRACE_NODE=")), "")


def pool_children(node_pid: int) -> list[int]:
    """Processes that run attempts: children of the node's forkserver."""
    return [child for server in children(node_pid) for child in children(server)]


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(c) for c in task.read_text().split()]
        except OSError:
            pass  # that thread has ended
    return found


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it was faster
