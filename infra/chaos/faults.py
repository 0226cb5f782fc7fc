"""The faults, one function each, and the table from which the random schedule draws.

Each injects its fault into a running installation, waits for the repair unless the nodes themselves repair it, and
returns what it did to which node and when: the conservation check needs that to explain replays. TimeoutError when a
killed role does not return.
"""

import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace

from .conservation import InjectedFault
from .installation import Installation, kill, node_name, pool_children

Fault = Callable[[Installation, random.Random], InjectedFault]


def kill_child(installation: Installation, rng: random.Random) -> InjectedFault:
    """kill -9 of one process that may run an attempt."""
    node, pid = _some_node(installation, rng)
    begun = _now_ms()
    victims = pool_children(pid)
    if victims:
        kill(rng.choice(victims))
    return InjectedFault("kill_child", node, begun, _now_ms())


def kill_all_children(installation: Installation, rng: random.Random) -> InjectedFault:
    """kill -9 of all processes of a node that may run attempts."""
    node, pid = _some_node(installation, rng)
    begun = _now_ms()
    for victim in pool_children(pid):
        kill(victim)
    return InjectedFault("kill_all_children", node, begun, _now_ms())


def kill_node(installation: Installation, rng: random.Random) -> InjectedFault:
    """kill -9 of a node; the supervisor restarts it."""
    role, pid = rng.choice(sorted(installation.supervised_nodes().items()))
    name, begun = node_name(pid), _now_ms()
    kill(pid)
    installation.wait_role(role, pid)
    return InjectedFault("kill_node", name, begun, _now_ms())


def lose_node(installation: Installation, rng: random.Random) -> InjectedFault:
    """kill -9 of a node that stays away: others replay its tasks after its lease has ended."""
    node = installation.add_node()
    time.sleep(rng.uniform(2, 5))
    begun = _now_ms()
    node.kill()
    installation.extra.remove(node)
    time.sleep(installation.settings.lease_s)
    return InjectedFault("lose_node", node.name, begun, _now_ms())


def freeze_node(installation: Installation, rng: random.Random) -> InjectedFault:
    """SIGSTOP beyond the lease, then SIGCONT: the node must find out that it was declared dead."""
    node, pid = _some_node(installation, rng)
    begun = _now_ms()
    kill(pid, signal.SIGSTOP)
    time.sleep(installation.settings.lease_s + rng.uniform(2, 5))
    kill(pid, signal.SIGCONT)
    return InjectedFault("freeze_node", node, begun, _now_ms())


def kill_storekeeper(installation: Installation, rng: random.Random) -> InjectedFault:
    """kill -9 of one storekeeper; the others take its partitions."""
    return _kill_role(installation, rng.choice(installation.running("storekeeper")))


def kill_gateway(installation: Installation, rng: random.Random) -> InjectedFault:
    """kill -9 of one gateway; its listeners go on at another."""
    return _kill_role(installation, rng.choice(installation.running("gateway")))


def kill_broker(installation: Installation, rng: random.Random) -> InjectedFault:
    """kill -9 of one broker; waits until all replicas are in sync. Every node may lose acknowledgements."""
    fault = _kill_role(installation, rng.choice(installation.brokers()))
    return replace(fault, fault="kill_broker", node="")


def add_and_drain_node(installation: Installation, rng: random.Random) -> InjectedFault:
    """A node joins while tasks run, and is drained. Only tasks longer than the drain time may run again."""
    begun = _now_ms()
    node = installation.add_node()
    time.sleep(rng.uniform(2, 6))
    node.stop(installation.settings.drain_s + 10)
    installation.extra.remove(node)
    return InjectedFault("add_and_drain_node", node.name, begun, _now_ms())


def rolling_restart(installation: Installation, rng: random.Random) -> InjectedFault:
    """SIGTERM to one role after another; each is back before the next."""
    begun = _now_ms()
    for role, pid in sorted(installation.pids().items()):
        if role.startswith(("worker", "storekeeper", "gateway")):
            kill(pid, signal.SIGTERM)
            installation.wait_role(role, pid)
    return InjectedFault("rolling_restart", "", begun, _now_ms())


# name -> (fault, weight in the random schedule)
FAULTS: dict[str, tuple[Fault, int]] = {
    "kill_child": (kill_child, 8),
    "kill_all_children": (kill_all_children, 3),
    "kill_node": (kill_node, 5),
    "lose_node": (lose_node, 2),
    "freeze_node": (freeze_node, 2),
    "kill_storekeeper": (kill_storekeeper, 4),
    "kill_gateway": (kill_gateway, 4),
    "kill_broker": (kill_broker, 2),
    "add_and_drain_node": (add_and_drain_node, 2),
    "rolling_restart": (rolling_restart, 1),
}


def draw(rng: random.Random) -> str:
    """A fault's name, drawn by weight."""
    names = list(FAULTS)
    return rng.choices(names, [FAULTS[n][1] for n in names])[0]


def _kill_role(installation: Installation, role: str) -> InjectedFault:
    begun, pid = _now_ms(), installation.pids()[role]
    kill(pid)
    installation.wait_role(role, pid)
    return InjectedFault(f"kill_{role.partition('-')[0]}", role, begun, _now_ms())


def _some_node(installation: Installation, rng: random.Random) -> tuple[str, int]:
    """(name, process id) of a node."""
    _, pid = rng.choice(sorted(installation.nodes().items()))
    return node_name(pid), pid


def _now_ms() -> int:
    return int(time.time() * 1000)
