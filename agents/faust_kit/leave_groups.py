"""Removes dead members from their consumer groups, so that no group waits for their sessions to end.

Called by a worker node and by the storekeeper as they start. A failure costs that wait and nothing else.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from headrace.kafka.client import Kafka

log = logging.getLogger(__name__)

LEAVE_S = 3.0  # longer than this, waiting for the sessions to end is no slower


async def leave_groups(kafka: Kafka, members: Mapping[str, str]) -> None:
    """Sends LeaveGroup for each dead member, within LEAVE_S seconds; a failure is logged and not raised.

    `members`: group (name without prefix) -> member id.
    """
    try:
        await asyncio.wait_for(_leave(kafka, members), LEAVE_S)
    except Exception as e:  # noqa: BLE001 - aiokafka raises many; the sessions end by themselves
        log.info("The old memberships of %s end with their sessions: %s", ", ".join(members), e or type(e).__name__)


async def _leave(kafka: Kafka, members: Mapping[str, str]) -> None:
    from aiokafka.client import AIOKafkaClient
    from aiokafka.protocol.group import LeaveGroupRequest

    client = AIOKafkaClient(
        bootstrap_servers=kafka.bootstrap.split(","), request_timeout_ms=int(LEAVE_S * 1000), **_security(kafka)
    )
    await client.bootstrap()
    try:
        for group, member in members.items():
            name = kafka.group(group)
            coordinator = await client.coordinator_lookup(0, name)
            answer = await client.send(coordinator, LeaveGroupRequest(name, member), group=1)
            if answer.error_code not in (0, 25):  # 25: UNKNOWN_MEMBER_ID, it is gone already
                log.info("Group %s did not remove the old member: error %d", name, answer.error_code)
    finally:
        await client.close()


def _security(kafka: Kafka) -> dict[str, Any]:
    if not kafka.security:
        return {}
    from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

    from .app import credentials

    return dict(credentials_to_aiokafka_auth(credentials(kafka.security)))
