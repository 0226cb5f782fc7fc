"""Consumer groups that are made anew while a consumer is in them: Kafka's generations begin again."""

import asyncio
import threading
from collections.abc import Callable

from confluent_kafka import Consumer

from agents.faust_kit.leave_groups import leave_groups
from headrace.kafka.client import Kafka, member_of


def delete_group(kafka: Kafka, group: str) -> None:
    """`group`, which must have no members, comes without the installation's prefix."""
    name = kafka.group(group)
    kafka.admin().delete_consumer_groups([name])[name].result(30)


class MadeAnew:
    """Makes the group anew at a consumer's first membership. `generations` has Kafka's numbers of both memberships."""

    def __init__(self, kafka: Kafka, group: str, consumer: Callable[[], Consumer]) -> None:
        self._kafka, self._group, self._consumer = kafka, group, consumer
        self.generations: list[int] = []
        self.again = threading.Event()  # set at the second membership

    def on_member(self, member: str) -> None:
        self.generations.append(member_of(self._consumer())[0])
        if len(self.generations) > 1:
            self.again.set()
            return
        asyncio.run(leave_groups(self._kafka, {self._group: member}))  # the consumer's thread cannot join meanwhile
        delete_group(self._kafka, self._group)
