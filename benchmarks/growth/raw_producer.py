"""Sends whole record batches, several requests at a time, in the order of each partition. For one broker or several.

RuntimeError when Kafka refuses a batch; aiokafka's errors when it does not answer.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from aiokafka.protocol.produce import ProduceRequest

from headrace.contract.records import Place
from headrace.kafka.client import Kafka
from headrace.kafka.raw_client import leader_of

_REQUEST_BYTES = 8_000_000
_IN_FLIGHT = 3  # requests: enough to keep the broker busy while the next batches are made
_TIMEOUT_MS = 60_000

Batch = tuple[Place, bytes]  # the place's topic is without prefix


@dataclass(slots=True)
class _Request:
    batches: dict[Place, bytes] = field(default_factory=dict)
    size: int = 0


class RawProducer:
    """`send` batches, then `finish`. `client` is a `headrace.kafka.raw_client.raw_client`."""

    def __init__(self, kafka: Kafka, client: Any) -> None:
        self._kafka, self._client = kafka, client
        self._leaders: dict[Place, int] = {}
        self._open: dict[int, _Request] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self.bytes = 0  # sent

    async def send(self, batches: Iterable[Batch]) -> None:
        """Sends when enough has come together; waits while too many requests are under way."""
        for place, data in batches:
            leader = await self._leader(place)
            request = self._open.setdefault(leader, _Request())
            if place in request.batches or request.size + len(data) > _REQUEST_BYTES:
                await self._start(leader)
                request = self._open.setdefault(leader, _Request())
            request.batches[place] = data
            request.size += len(data)

    async def finish(self) -> None:
        """Sends what is left, and returns when Kafka has everything."""
        for leader in list(self._open):
            await self._start(leader)
        for done in list(self._sending):
            await done

    async def _start(self, leader: int) -> None:
        request = self._open.pop(leader)
        while len(self._sending) >= _IN_FLIGHT:
            done, self._sending = await asyncio.wait(self._sending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        self._sending.add(asyncio.create_task(self._request(leader, request)))
        await asyncio.sleep(0)  # it is written to the connection before the next one is

    async def _request(self, leader: int, request: _Request) -> None:
        topics: dict[str, list[tuple[int, bytes]]] = {}
        for (topic, partition), data in request.batches.items():
            topics.setdefault(self._kafka.topic(topic), []).append((partition, data))
        asked = ProduceRequest(None, 1, _TIMEOUT_MS, list(topics.items()))
        answer = await self._client.send(leader, asked)
        for topic, partitions in answer.topics:
            for partition, error, *_ in partitions:
                if error:
                    raise RuntimeError(f"Kafka refuses a batch for {topic}/{partition}: error {error}")
        self.bytes += request.size

    async def _leader(self, place: Place) -> int:
        if place not in self._leaders:
            self._leaders[place] = await leader_of(self._client, self._kafka.topic(place[0]), place[1])
        return self._leaders[place]
