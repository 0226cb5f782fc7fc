"""The records on `nodes` that say that a boot is dead, and at last that it is forgotten. Pure.

Written by a node for itself or its predecessor, and by the reaper for others.
"""

import time
from dataclasses import replace

from agents.membership.identity import NodeIdentity
from headrace.contract.cluster import Heartbeat
from headrace.contract.records import Outgoing, headers_of


def own_death_notice(node: NodeIdentity, boot: str) -> Heartbeat:
    """The heartbeat that says for ever that a boot of this node is dead."""
    return Heartbeat(boot, node.name, node.host, 0, 0, time.time_ns() // 1_000_000, state="dead")


def death_notice(boot: str, last: Heartbeat | None) -> Heartbeat:
    """The heartbeat that says for ever that a boot is dead, with what was last known of it."""
    if last is None:
        return Heartbeat(boot, "", "", 0, 0, 0, state="dead")
    return replace(last, state="dead", running=())


def forget_boot(boot: str) -> Outgoing:
    """The tombstone by which a boot that is long dead leaves `nodes`."""
    return Outgoing("nodes", boot.encode(), None, headers_of({}))
