"""A real storekeeper process on a real broker, outcomes to send to it, and the events and files it made."""

import hashlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
from confluent_kafka import KafkaError, TopicPartition

from headrace.contract.lifecycle import Event
from headrace.contract.outcome import CHUNK_BYTES, Outcome
from headrace.contract.records import Outgoing, Source
from headrace.contract.states import Reason
from headrace.kafka.client import Kafka
from headrace.kafka.groups import STOREKEEPER_GROUP
from headrace.kafka.partitioner import partition_of
from headrace.kafka.sender import Sender
from headrace.kafka.topics import apply_topics
from headrace.settings import Settings
from infra.local.process import free_port
from tests.rigs.http import get
from tests.rigs.topics import PARTITIONS

SUBMISSION = b'{"name": "prime", "payload": {"upper_bound": 10}, "directory": "demo"}'


def completed(value: bytes = b"[2,3,5,7]", **changes: object) -> Outcome:
    """A completed outcome; `changes` replace its fields. Its task id is new unless `id` is among them."""
    return replace(
        Outcome(
            str(uuid.uuid4()),
            "completed",
            value,
            attempt=1,
            boot="boot-1",
            node="node-1",
            source=Source("tasks.normal", 0, 0),
            submitted_ms=1_764_000_000_000,
            name="prime",
            directory="demo",
            content_type="application/json",
            suffix=".json",
            started_ms=1_764_000_000_004,
            ended_ms=1_764_000_000_016,
        ),
        **changes,
    )


def failed(**changes: object) -> Outcome:
    return completed(SUBMISSION, **{"outcome": "failed", "reason": Reason.FAILED, "error": "it broke", **changes})


def cancelled(**changes: object) -> Outcome:
    return completed(SUBMISSION, **{"outcome": "cancelled", "reason": Reason.CANCELLED, **changes})


def id_in_partition(partition: int) -> str:
    """A new task id whose records belong there."""
    while partition_of((task_id := str(uuid.uuid4())).encode(), PARTITIONS) != partition:
        pass
    return task_id


def in_chunks(outcome: Outcome, size: int = CHUNK_BYTES) -> list[Outcome]:
    pieces = [outcome.value[at : at + size] for at in range(0, len(outcome.value), size)]
    return [replace(outcome, value=piece, chunk=i, chunks=len(pieces)) for i, piece in enumerate(pieces)]


class Rig:
    """One installation whose topics exist, and in which storekeepers are started and stopped."""

    def __init__(self, settings: Settings) -> None:
        self.settings = replace(settings, storekeeper_http=f"127.0.0.1:{free_port()}")
        self.kafka = Kafka(self.settings, "test")
        # One request at a time, or a new partition would not keep the order of chunks.
        self.sender = Sender(self.kafka, **{"max.in.flight.requests.per.connection": 1})
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def root(self) -> Path:
        return self.settings.results_root

    def start(self, *command: str, **settings: object) -> subprocess.Popen[bytes]:
        """Starts a storekeeper; `command` replaces the role's own."""
        own = replace(self.settings, **settings)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")} | own.environ()
        arguments = [sys.executable, *(command or ("-m", "headrace.cli.main", "storekeeper"))]
        process = subprocess.Popen(arguments, env=environment)
        self._processes.append(process)
        return process

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self.sender.close()

    def send(self, *records: Outcome | Outgoing) -> list[tuple[str, int, int]]:
        """Sends to `results`, in this order; returns topic, partition and offset of each."""
        return self.sender.send_all([r.encode() if isinstance(r, Outcome) else r for r in records], 10)

    def events(self, *ids: str) -> list[Event]:
        """Waits until each id has a terminal event, and returns all events in the log by then, in its order."""
        return self._read(lambda found: set(ids) <= {e.id for e in found})

    def all_events(self) -> list[Event]:
        """Every terminal event in the log now."""
        return self._read(lambda _: True)

    def committed(self, partition: int) -> int:
        consumer = self.kafka.consumer(STOREKEEPER_GROUP)
        [place] = consumer.committed([TopicPartition(self.kafka.topic("results"), partition)], timeout=10)
        consumer.close()
        return int(place.offset)

    def ready(self) -> httpx.Response:
        try:
            return get(f"http://{self.settings.storekeeper_http}/readyz", timeout=5)
        except httpx.TransportError as e:
            return httpx.Response(599, text=str(e))

    def metric(self, name: str) -> float:
        text = get(f"http://{self.settings.storekeeper_http}/metrics", timeout=5).text
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))

    def file(self, event: Event) -> bytes:
        """The bytes of the stored result, checked against the event's size and hash."""
        data = (self.root / event.file).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (event.size, event.sha256)
        return data

    def _read(self, enough: Callable[[Sequence[Event]], bool], timeout_s: float = 60.0) -> list[Event]:
        consumer = self.kafka.consumer()
        topics = [self.kafka.topic(t) for t in ("lifecycle.completed", "tasks.dead")]
        known = {t: consumer.list_topics(t, timeout=10).topics[t].partitions for t in topics}
        places = [TopicPartition(t, p, 0) for t in topics for p in known[t]]
        consumer.assign(places)
        found: list[Event] = []
        at_end: set[tuple[str, int]] = set()
        deadline = time.monotonic() + timeout_s
        try:
            while len(at_end) < len(places) or not enough(found):
                assert time.monotonic() < deadline, f"only {[(e.id, e.topic) for e in found]} after {timeout_s} s"
                message = consumer.poll(1.0)
                if message is None:
                    continue
                if (error := message.error()) is not None:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    at_end.add((message.topic() or "", message.partition() or 0))
                    continue
                found.append(Event.decode(self.kafka.record(message)))
        finally:
            consumer.close()
        return found


@contextmanager
def installation(broker: str, folder: Path) -> Iterator[Rig]:
    """A rig with topics of its own, stopped at the end of the block."""
    settings = Settings(kafka=broker, topic_prefix=f"t{uuid.uuid4().hex[:8]}.", data=folder)
    rig = Rig(settings)
    apply_topics(rig.kafka.admin(), settings.topic_prefix, PARTITIONS)
    try:
        yield rig
    finally:
        rig.stop()


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Polls for a condition that a test can only see from outside."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


def terminate(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(60)
