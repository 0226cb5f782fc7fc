"""Generates N tasks that have ended straight into an installation's topics, as fast as the broker takes them.

The topics must exist. More tasks are added behind those of an earlier call. Afterwards the groups have committed
everything, `results` and all but the last hour of the task topics are trimmed, and the topics have the broker's time
again. Prints its progress. KafkaException and RuntimeError when Kafka refuses something.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from confluent_kafka import TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from headrace.contract.records import Place
from headrace.errors import Retryable
from headrace.kafka.client import Kafka
from headrace.kafka.groups import INTAKE_GROUP, REAPER_GROUP, RECEIVER_GROUP, STOREKEEPER_GROUP
from headrace.kafka.metadata import partitions_of
from headrace.kafka.raw_client import raw_client
from headrace.kafka.reading import end_offsets

from .history import TaskRows
from .raw_producer import RawProducer
from .task_ids import partitions_of_ids, random_ids

TOPICS = (
    "tasks.normal",
    "tasks.running",
    "tasks.control",
    "tasks.redriven",
    "results",
    "tasks.dead",
    "lifecycle.received",
    "lifecycle.started",
    "lifecycle.completed",
)
GROUPS = {
    INTAKE_GROUP: ("tasks.normal", "tasks.high"),
    RECEIVER_GROUP: ("tasks.normal", "tasks.high"),
    REAPER_GROUP: ("tasks.running",),
    STOREKEEPER_GROUP: ("results",),
}
_ANSWER_S = 120.0  # a broker that takes a gigabyte a minute may be slow to answer
_MOST_ROWS = 1000  # of a batch: the largest records make 1 MB
_HOUR_S = 3600
_SAY_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Generated:
    """How much was sent, and some of the ids, by partition."""

    tasks: int
    bytes: int
    took_s: float
    sample: dict[int, list[str]]


def generate(
    kafka: Kafka,
    tasks: int,
    *,
    rate: float = 400.0,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> Generated:
    """`tasks` tasks that came at `rate` a second and ended just now. `seed` decides their ids."""
    admin = kafka.admin()
    count = len(partitions_of(admin, [kafka.topic("results")], _ANSWER_S)[kafka.topic("results")])
    places = [(topic, p) for topic in TOPICS for p in range(count)]
    begun = time.monotonic()
    _set_times(admin, kafka, "CreateTime")
    try:
        ends = wait_for_ends(kafka, admin, places)
        rows = _Rows(tasks, ends, count, rate, seed)
        sent = asyncio.run(_send(kafka, rows, tasks, say))
    finally:
        _set_times(admin, kafka, "LogAppendTime")
    _settle(kafka, admin, count, rows.recent_from)
    return Generated(tasks, sent, time.monotonic() - begun, rows.sample)


async def _send(kafka: Kafka, rows: "_Rows", tasks: int, say: Callable[[str], None]) -> int:
    begun = said = time.monotonic()
    done = 0
    async with raw_client(kafka, _ANSWER_S * 2) as client:
        producer = RawProducer(kafka, client)
        for some in rows:
            await producer.send(some.batches())
            done += len(some.ids)
            if time.monotonic() > said + _SAY_EVERY_S:
                said = time.monotonic()
                rate = done / (said - begun)
                say(f"{done:,} of {tasks:,} tasks, {rate:,.0f} a second, {(tasks - done) / rate:.0f} s left")
        await producer.finish()
    return producer.bytes


class _Rows:
    """The tasks in the order of their time, as rows of one partition each."""

    def __init__(self, tasks: int, ends: dict[Place, int], partitions: int, rate: float, seed: int) -> None:
        self._tasks, self._partitions, self._rate = tasks, partitions, rate
        self._random = np.random.default_rng([seed, sum(ends.values())])  # other ids behind those of an earlier call
        self._source = [ends["tasks.normal", p] for p in range(partitions)]
        self._outcome = [ends["results", p] for p in range(partitions)]
        self._numbers = [0] * partitions
        self._now_ms = int(time.time() * 1000)
        self._done = 0
        self.size = max(1, min(_MOST_ROWS, tasks // partitions // 40))
        self.recent_from: dict[int, int] = {}  # partition -> offset on tasks.normal of the first task of the last hour
        self.sample: dict[int, list[str]] = {p: [] for p in range(partitions)}

    def __iter__(self) -> Iterator[TaskRows]:
        waiting = [np.empty((0, 36), np.uint8)] * self._partitions
        made = 0
        while made < self._tasks:
            count = min(self._tasks - made, self.size * self._partitions * 4)
            ids = random_ids(self._random, count)
            made += count
            where = partitions_of_ids(ids, self._partitions)
            for p in range(self._partitions):
                waiting[p] = np.concatenate([waiting[p], ids[where == p]])
            while any(len(w) >= self.size for w in waiting):
                for p in range(self._partitions):
                    if len(waiting[p]) >= self.size:
                        yield from self._rows(p, waiting[p][: self.size])
                        waiting[p] = waiting[p][self.size :]
        for p in range(self._partitions):
            yield from self._rows(p, waiting[p])

    def _rows(self, p: int, ids: np.ndarray) -> Iterator[TaskRows]:
        """The ids as one batch, or as several where the number of an offset's digits changes."""
        while len(ids):
            source, outcome = self._source[p], self._outcome[p]
            count = min(len(ids), 10 ** len(str(source)) - source, 10 ** len(str(outcome)) - outcome)
            left_s = (self._tasks - self._done) / self._rate
            recent = left_s < _HOUR_S
            if recent:
                self.recent_from.setdefault(p, source)
            at_ms = self._now_ms - int(left_s * 1000)
            if len(self.sample[p]) < 1000:
                self.sample[p].append(bytes(ids[0]).decode())
            yield TaskRows(p, ids[:count], source, outcome, self._numbers[p], at_ms, recent)
            self._source[p], self._outcome[p] = source + count, outcome + count
            self._done += count
            ids = ids[count:]
        self._numbers[p] += 1


def wait_for_ends(kafka: Kafka, admin: AdminClient, places: list[Place]) -> dict[Place, int]:
    """The ends of the log; waits for leaders: topics may be new, and a broker under load may change them."""
    deadline = time.monotonic() + _ANSWER_S
    while True:
        try:
            return end_offsets(kafka, admin, places)
        except Retryable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _settle(kafka: Kafka, admin: AdminClient, partitions: int, recent_from: dict[int, int]) -> None:
    """Commits everything for the groups, and trims what they have settled."""
    every = {topic for topics in GROUPS.values() for topic in topics}
    ends = wait_for_ends(kafka, admin, [(t, p) for t in every for p in range(partitions)])
    for group, topics in GROUPS.items():
        consumer = kafka.consumer(group)
        at = [TopicPartition(kafka.topic(t), p, ends[t, p]) for t in topics for p in range(partitions)]
        consumer.commit(offsets=at, asynchronous=False)
        consumer.close()
    before = {("results", p): ends["results", p] for p in range(partitions)}
    before |= {("tasks.normal", p): recent_from.get(p, ends["tasks.normal", p]) for p in range(partitions)}
    asked = [TopicPartition(kafka.topic(t), p, offset) for (t, p), offset in before.items()]
    for done in admin.delete_records(asked, request_timeout=_ANSWER_S).values():
        done.result()


def _set_times(admin: AdminClient, kafka: Kafka, who: str) -> None:
    """Whether the producer's times stand in the log or the broker's: the history has the times of its tasks."""
    change = ConfigEntry("message.timestamp.type", who, incremental_operation=AlterConfigOpType.SET)
    asked = [ConfigResource(ResourceType.TOPIC, kafka.topic(t), incremental_configs=[change]) for t in TOPICS]
    for done in admin.incremental_alter_configs(asked, request_timeout=_ANSWER_S).values():
        done.result()
