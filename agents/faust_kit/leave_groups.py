"""Removes dead members from their consumer groups, so that no group waits for their sessions to end.

Called by a worker node and by the storekeeper as they start. A failure costs that wait and nothing else.
"""

import asyncio
import logging
from collections.abc import Mapping

from headrace.kafka.client import Kafka
from headrace.kafka.raw_client import raw_client

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
    from aiokafka.protocol.group import LeaveGroupRequest

    async with raw_client(kafka, LEAVE_S) as client:
        for group, member in members.items():
            name = kafka.group(group)
            coordinator = await client.coordinator_lookup(0, name)
            answer = await client.send(coordinator, LeaveGroupRequest(name, member), group=1)
            if answer.error_code not in (0, 25):  # 25: UNKNOWN_MEMBER_ID, it is gone already
                log.info("Group %s did not remove the old member: error %d", name, answer.error_code)
