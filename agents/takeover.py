"""What a new process of a node does for its dead predecessor: takes it out of its groups and says that it is dead.

Called once, at start, when the kernel's locks have proved the whole old tree gone; the storekeeper does the first part.
Without it the group would wait for the dead member's session to end, and the reaper for the lease. A failure costs that
time and nothing else.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from agents.node import Node, Predecessor
from headrace.cluster import Heartbeat
from headrace.kafka import Kafka, Sender

log = logging.getLogger(__name__)

_LEAVE_S = 3.0  # longer than this, waiting for the sessions to end is no slower


def dead_word(node: Node, boot: str) -> Heartbeat:
    """The heartbeat that says for ever that a boot of this node is dead."""
    return Heartbeat(boot, node.name, node.host, 0, 0, time.time_ns() // 1_000_000, state="dead")


def take_over(kafka: Kafka, sender: Sender, node: Node, before: Predecessor) -> None:
    """Declares `before` dead and makes it leave its groups; returns when Kafka has both, or after a few seconds."""
    said = sender.send(dead_word(node, before.boot).encode())
    if before.members:
        asyncio.run(leave_groups(kafka, before.members))
    try:
        said.result(_LEAVE_S)
    except TimeoutError:
        log.info("Kafka has not yet taken the word that the boot before this one is dead")


async def leave_groups(kafka: Kafka, members: Mapping[str, str]) -> None:
    """Takes dead members (group without prefix -> member id) out of their groups, or gives up after a few seconds."""
    try:
        await asyncio.wait_for(_leave(kafka, members), _LEAVE_S)
    except Exception as e:  # noqa: BLE001 - whatever aiokafka raises, the sessions end by themselves
        log.info("The old memberships of %s end with their sessions: %s", ", ".join(members), e or type(e).__name__)


async def _leave(kafka: Kafka, members: Mapping[str, str]) -> None:
    from aiokafka.client import AIOKafkaClient
    from aiokafka.protocol.group import LeaveGroupRequest

    client = AIOKafkaClient(bootstrap_servers=kafka.bootstrap.split(","), request_timeout_ms=int(_LEAVE_S * 1000),
                            **_security(kafka))  # fmt: skip
    await client.bootstrap()
    try:
        for group, member in members.items():
            name = kafka.group(group)
            coordinator = await client.coordinator_lookup(0, name)
            answer = await client.send(coordinator, LeaveGroupRequest(name, member), group=1)
            if answer.error_code not in (0, 25):  # 25: the member is unknown, as it should be
                log.info("Group %s has not let the old member go: error %d", name, answer.error_code)
    finally:
        await client.close()


def _security(kafka: Kafka) -> dict[str, Any]:
    if not kafka.security:
        return {}
    from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

    from agents.faust_app import credentials

    return dict(credentials_to_aiokafka_auth(credentials(kafka.security)))
