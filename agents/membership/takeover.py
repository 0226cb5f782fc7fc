"""What a new process of a node does for its dead predecessor: takes it out of its groups and says that it is dead.

Called once, at start, when the kernel's locks have proved the whole old tree gone; the storekeeper does the first part.
Without it the group would wait for the dead member's session to end, and the reaper for the lease. A failure costs that
time and nothing else.
"""

import asyncio
import logging

from agents.faust_kit.leave_groups import LEAVE_S, leave_groups
from agents.membership.death_notices import own_death_notice
from agents.membership.identity import NodeIdentity, Predecessor
from headrace.kafka.client import Kafka, Sender

log = logging.getLogger(__name__)


def take_over(kafka: Kafka, sender: Sender, node: NodeIdentity, before: Predecessor) -> None:
    """Declares `before` dead and makes it leave its groups; returns when Kafka has both, or after a few seconds."""
    said = sender.send(own_death_notice(node, before.boot).encode())
    if before.members:
        asyncio.run(leave_groups(kafka, before.members))
    try:
        said.result(LEAVE_S)
    except TimeoutError:
        log.info("Kafka has not yet taken the word that the boot before this one is dead")
