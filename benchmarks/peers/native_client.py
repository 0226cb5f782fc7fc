"""Headrace's client without a gateway: records to `tasks.normal`, ends from `lifecycle.completed` and `tasks.dead`."""

import json
import threading
import uuid
from collections.abc import Iterable
from typing import Any

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from .completions import Completions

_ENDS = ("lifecycle.completed", "tasks.dead")
_FLUSH_S = 60.0


class NativeClient:
    """A producer, and a thread that reads the ends of all tasks. For one thread."""

    def __init__(self, kafka: str, prefix: str) -> None:
        self._prefix, self._completions, self._stopping = prefix, Completions(), threading.Event()
        self._many = threading.Event()  # many tasks are awaited: the reader takes batches
        settings = {"bootstrap.servers": kafka, "acks": "all", "partitioner": "murmur2_random", "linger.ms": 1}
        self._producer = Producer(settings)
        self._reader = threading.Thread(target=self._read, args=(self._consumer(kafka),), daemon=True)
        self._reader.start()

    def submit(self, task: dict[str, Any], priority: str) -> str:
        """The new task's id."""
        self._many.clear()
        made = self._produce(task, priority)
        self._producer.poll(0)
        return made

    def submit_many(self, tasks: Iterable[dict[str, Any]], priority: str) -> list[str]:
        """The new tasks' ids; returns when Kafka has acknowledged all of them."""
        self._many.set()
        made = [self._produce(task, priority) for task in tasks]
        self._producer.flush(_FLUSH_S)
        return made

    def wait(self, task_id: str, timeout_s: float) -> str:
        """As `Completions.wait`."""
        return self._completions.wait(task_id, timeout_s)

    def close(self) -> None:
        self._stopping.set()
        self._reader.join()

    def _produce(self, task: dict[str, Any], priority: str) -> str:
        made, topic = str(uuid.uuid4()), "tasks.high" if priority == "high" else "tasks.normal"
        value = json.dumps(task).encode()
        while True:
            try:
                self._producer.produce(self._prefix + topic, value, made)
                return made
            except BufferError:
                self._producer.poll(0.1)

    def _consumer(self, kafka: str) -> Consumer:
        """Reads from the present ends on: 'latest' would be resolved later, and miss tasks that ended before."""
        consumer = Consumer({"bootstrap.servers": kafka, "group.id": "bench", "enable.auto.commit": False})
        places = []
        for topic in (self._prefix + name for name in _ENDS):
            for partition in consumer.list_topics(topic, timeout=10).topics[topic].partitions:
                place = TopicPartition(topic, partition)
                place.offset = consumer.get_watermark_offsets(place, timeout=10)[1]
                places.append(place)
        consumer.assign(places)
        return consumer

    def _read(self, consumer: Consumer) -> None:
        while not self._stopping.is_set():
            messages = consumer.consume(500, 0.1) if self._many.is_set() else [consumer.poll(0.1)]
            self._completions.note({_key(m): _why(m) for m in messages if m and not m.error()})
        consumer.close()


def _key(message: Message) -> str:
    return _text(message.key())


def _why(message: Message) -> str:
    """The reason of a dead letter; empty for a completed task."""
    if not (message.topic() or "").endswith("tasks.dead"):
        return ""
    return _text(dict(message.headers() or []).get("reason")) or "failed"


def _text(value: str | bytes | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
