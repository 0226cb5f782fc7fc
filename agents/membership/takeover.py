"""What a new process of a node does for its dead predecessor: leaves its groups, and declares its boot dead.

Called once, at start, when the kernel's locks have proved that the whole old process tree is gone. Without it the
groups would wait for the dead member's session to end, and the reaper for the lease. A failure costs that time and
nothing else; the sender goes on with the notice.
"""

import asyncio
import logging

from headrace.kafka.client import Kafka
from headrace.kafka.sender import Sender

from ..faust_kit.leave_groups import LEAVE_S, leave_groups
from .death_notices import own_death_notice
from .identity import NodeIdentity, Predecessor

log = logging.getLogger(__name__)


def take_over(kafka: Kafka, sender: Sender, node: NodeIdentity, before: Predecessor) -> None:
    """Declares `before` dead and removes it from its groups; returns when Kafka has both, or after a few seconds."""
    notice = sender.deliver(own_death_notice(node, before.boot).encode())
    if before.members:
        asyncio.run(leave_groups(kafka, before.members))
    try:
        notice.result(LEAVE_S)
    except TimeoutError:
        log.info("Kafka has not yet acknowledged that the boot before this one is dead")
