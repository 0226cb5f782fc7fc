"""The records on `nodes` that declare a boot dead, and the tombstone that later removes it. Pure.

A node writes them for its own boots; the reaper writes them for other nodes' boots. A death notice is final: no later
heartbeat revives its boot.
"""

from dataclasses import replace

from headrace.contract.cluster import Heartbeat
from headrace.contract.records import Outgoing, headers_of

from .identity import NodeIdentity


def own_death_notice(node: NodeIdentity, boot: str) -> Heartbeat:
    """The death notice of an earlier boot of this node, of which only the id is known: the rest says nothing of it."""
    return Heartbeat(boot=boot, node=node.name, host=node.host, pid=0, slots=0, started_ms=0, state="dead")


def drain_notice(last: Heartbeat) -> Heartbeat:
    """The death notice of a boot that ends in order, made from its heartbeat. Nobody runs its kinds any more."""
    return replace(last, state="dead", drained=True, running=(), kinds=())


def death_notice(boot: str, last: Heartbeat | None) -> Heartbeat:
    """The death notice of any boot, made from its last heartbeat; None if no heartbeat of it was ever read."""
    if last is None:
        return Heartbeat(boot=boot, node="", host="", pid=0, slots=0, started_ms=0, state="dead")
    return replace(last, state="dead", running=())


def boot_tombstone(boot: str) -> Outgoing:
    """The tombstone that removes a long dead boot from `nodes`."""
    return Outgoing("nodes", boot.encode(), None, headers_of({}))
