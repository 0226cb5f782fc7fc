"""The faults, one function each, and the table that the random schedule draws from.

Each does its harm to a running installation, waits until that is repaired where the repair is not the nodes' own, and
says what was done to whom and when: the conservation check needs that to tell a replay with a cause from one without.
"""

import random
import signal
import time
from collections.abc import Callable

from infra.chaos.conservation import Done
from infra.chaos.installation import Installation, kill, node_name, pool_children

Fault = Callable[[Installation, random.Random], Done]


def kill_child(at: Installation, rng: random.Random) -> Done:
    """kill -9 of one process that may be running an attempt."""
    node, pid = _some_node(at, rng)
    begun = _now_ms()
    victims = pool_children(pid)
    if victims:
        kill(rng.choice(victims))
    return Done("kill_child", node, begun, _now_ms())


def kill_all_children(at: Installation, rng: random.Random) -> Done:
    node, pid = _some_node(at, rng)
    begun = _now_ms()
    for victim in pool_children(pid):
        kill(victim)
    return Done("kill_all_children", node, begun, _now_ms())


def kill_node(at: Installation, rng: random.Random) -> Done:
    """kill -9 of a node; the supervisor starts it again."""
    role, pid = rng.choice(sorted(at.supervised_nodes().items()))
    name, begun = node_name(pid), _now_ms()
    kill(pid)
    at.wait_role(role, pid)
    return Done("kill_node", name, begun, _now_ms())


def lose_node(at: Installation, rng: random.Random) -> Done:
    """kill -9 of a node that stays away: its lease has to end before others send again what it ran."""
    node = at.add_node()
    time.sleep(rng.uniform(2, 5))
    begun = _now_ms()
    node.kill()
    at.extra.remove(node)
    time.sleep(at.settings.lease_s)
    return Done("lose_node", node.name, begun, _now_ms())


def freeze_node(at: Installation, rng: random.Random) -> Done:
    """SIGSTOP past the lease, then SIGCONT: the node must find out by itself that it was taken for dead."""
    node, pid = _some_node(at, rng)
    begun = _now_ms()
    kill(pid, signal.SIGSTOP)
    time.sleep(at.settings.lease_s + rng.uniform(2, 5))
    kill(pid, signal.SIGCONT)
    return Done("freeze_node", node, begun, _now_ms())


def kill_storekeeper(at: Installation, rng: random.Random) -> Done:
    return _kill_role(at, "storekeeper")


def kill_gateway(at: Installation, rng: random.Random) -> Done:
    return _kill_role(at, "gateway")


def kill_broker(at: Installation, rng: random.Random) -> Done:
    """kill -9 of one broker, until all replicas are in step again. It touches every node: a claim's answer may be lost
    with it."""
    done = _kill_role(at, rng.choice(at.brokers()))
    return Done("kill_broker", "", done.begun_ms, done.ended_ms)


def add_and_drain_node(at: Installation, rng: random.Random) -> Done:
    """A node joins while tasks run and is drained again. Only what outlasts the grace may run again."""
    begun = _now_ms()
    node = at.add_node()
    time.sleep(rng.uniform(2, 6))
    node.stop(at.settings.drain_s + 10)
    at.extra.remove(node)
    return Done("add_and_drain_node", node.name, begun, _now_ms())


def rolling_restart(at: Installation, rng: random.Random) -> Done:
    """SIGTERM to one role after another, each back before the next."""
    begun = _now_ms()
    for role, pid in sorted(at.pids().items()):
        if role.startswith(("worker", "storekeeper", "gateway")):
            kill(pid, signal.SIGTERM)
            at.wait_role(role, pid)
    return Done("rolling_restart", "", begun, _now_ms())


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
    names = list(FAULTS)
    return rng.choices(names, [FAULTS[n][1] for n in names])[0]


def _kill_role(at: Installation, role: str) -> Done:
    begun, pid = _now_ms(), at.pids()[role]
    kill(pid)
    at.wait_role(role, pid)
    return Done(f"kill_{role}", role, begun, _now_ms())


def _some_node(at: Installation, rng: random.Random) -> tuple[str, int]:
    """(name, process id) of a node."""
    _, pid = rng.choice(sorted(at.nodes().items()))
    return node_name(pid), pid


def _now_ms() -> int:
    return int(time.time() * 1000)
