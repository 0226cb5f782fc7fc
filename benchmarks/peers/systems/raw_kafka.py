"""The limit of Kafka: a task and its completion as two records through the broker, in one process, no tasks.

Row A sends 100 bytes for each task and reads them back; row D sends one, reads it, sends another and reads that.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from ..bench import Bench
from ..system import Handle, System

_VALUE = b"x" * 100
_PARTITIONS = 2


class Sys(System):
    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self._topics = [f"{bench.namespace}.{hop}" for hop in ("tasks", "ends")]

    def open(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.bench.kafka})
        for made in admin.create_topics([NewTopic(t, _PARTITIONS, 1) for t in self._topics]).values():
            made.result()
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(self._connect())

    def submit(self, name: str, *args: Any, priority: str = "normal") -> Handle:
        self._loop.run_until_complete(self._hops())
        return None

    def submit_many(self, name: str, calls: Iterable[tuple[Any, ...]], priority: str = "normal") -> Any:
        return self._loop.run_until_complete(self._send(len(list(calls))))

    def wait(self, handle: Handle, timeout_s: float = 60.0) -> object:
        return "ok"  # `submit` has waited

    def wait_all(self, handles: Any, timeout_s: float = 300.0) -> None:
        if isinstance(handles, int):
            self._loop.run_until_complete(self._read(handles))

    def close(self) -> None:
        self._loop.run_until_complete(self._disconnect())
        admin = AdminClient({"bootstrap.servers": self.bench.kafka})
        for deleted in admin.delete_topics(self._topics).values():
            deleted.result()

    async def _connect(self) -> None:
        self._producer = AIOKafkaProducer(bootstrap_servers=self.bench.kafka, acks="all", enable_idempotence=True)
        self._consumers = [
            AIOKafkaConsumer(
                t, bootstrap_servers=self.bench.kafka, auto_offset_reset="earliest", enable_auto_commit=False
            )
            for t in self._topics
        ]
        for part in (self._producer, *self._consumers):
            await part.start()
        await self._hops()

    async def _disconnect(self) -> None:
        for part in (self._producer, *self._consumers):
            await part.stop()

    async def _hops(self) -> None:
        for topic, consumer in zip(self._topics, self._consumers, strict=True):
            await self._producer.send_and_wait(topic, _VALUE)
            await consumer.getone()

    async def _send(self, count: int) -> int:
        await asyncio.gather(*[await self._producer.send(self._topics[0], _VALUE) for _ in range(count)])
        return count

    async def _read(self, count: int) -> None:
        while count > 0:
            count -= sum(map(len, (await self._consumers[0].getmany(timeout_ms=1000)).values()))
