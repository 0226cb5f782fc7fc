"""How the audit reads Kafka: its topics up to their ends, the groups' committed offsets, and the records behind them.

All consumers are plain ones that join no group. KafkaException or Retryable when Kafka does not answer.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headrace.contract.ids import id_of_key
from headrace.contract.records import Place, Record
from headrace.contract.task import Task
from headrace.errors import Retryable, Undecodable
from headrace.kafka.client import SHORT_FETCH, Kafka
from headrace.kafka.metadata import installation_name, partitions_of
from headrace.kafka.partition_counts import read_partition_counts
from headrace.kafka.partitioner import partition_of
from headrace.kafka.reading import end_offsets, first_offsets, high_watermarks, read_batches

from .projection import EVENTS
from .task_row import submission_source

_ANSWER_S = 10.0
_SILENT_S = 30.0
_CHUNK = 5000  # records
_COORDINATOR_STARTS = (
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
)


@dataclass(slots=True)
class Story:
    """What the log holds of one task: the names of its events, and the sources of its submission that they name."""

    events: set[str] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)
    submitted_ms: int = 0  # as its events say; 0 = they do not
    first_received_ms: int = 0  # since when lifecycle.received holds its partition's records; 0 = all of them


class AuditLog:
    """Used by one thread. A place is (topic, partition).

    Each reading has a consumer of its own: one that is idle between two audits gathers errors through an outage.
    """

    def __init__(self, kafka: Kafka, on_chunk: Callable[[], None] = lambda: None) -> None:
        """`on_chunk` is called for each chunk of records that is read; what it raises ends the reading."""
        self._kafka, self._on_chunk = kafka, on_chunk

    def installation(self) -> str:
        """The cluster and the prefix; KafkaException."""
        return installation_name(self._kafka.admin(), self._kafka, "tasks.running", _ANSWER_S)

    def places(self, topics: Iterable[str]) -> list[Place]:
        """All partitions of these topics; Retryable when one is missing."""
        names = {t: self._kafka.topic(t) for t in topics}
        found = partitions_of(self._kafka.admin(), names.values(), _ANSWER_S)
        missing = [t for t, name in names.items() if name not in found]
        if missing:
            raise Retryable(f"the topic {missing[0]} is missing")
        return [(t, p) for t, name in names.items() for p in found[name]]

    def starts(self, places: Sequence[Place]) -> dict[Place, int]:
        """The first offset of each partition."""
        return first_offsets(self._kafka, self._kafka.admin(), places)

    def ends(self, places: Sequence[Place]) -> dict[Place, int]:
        """The offset up to which each partition can be read."""
        return end_offsets(self._kafka, self._kafka.admin(), places)

    def hidden_partitions(self, topics: Iterable[str]) -> set[int]:
        """The partitions outside the queue whose tasks have records that an open transaction hides there or in the
        queue: nobody can say what is missing of them."""
        places, counts = self.places(topics), read_partition_counts(self._kafka, _ANSWER_S)
        readable, written = self.ends(places), high_watermarks(self._kafka, self._kafka.admin(), places)
        return {counts.home_of(place[1]) for place, end in readable.items() if end < written[place]}

    def committed(self, group: str, topics: Sequence[str]) -> dict[Place, int]:
        """The group's committed offset in each partition; 0 where it has none."""
        places = self.places(topics)
        found = dict.fromkeys(places, 0)
        for p in self._committed(group, [TopicPartition(self._kafka.topic(t), p) for t, p in places]):
            found[self._kafka.unprefixed(p.topic), p.partition] = max(0, p.offset)
        return found

    def _committed(self, group: str, partitions: list[TopicPartition]) -> list[TopicPartition]:
        """Retries while the group's coordinator is still loading, as after a broker's start.

        Uses a consumer that never joins: librdkafka 2.16.1 aborts the whole process when the connection to a
        coordinator breaks during the admin client's request (its issues 4605, 5397).
        """
        consumer, deadline = self._kafka.consumer(group), time.monotonic() + _ANSWER_S
        try:
            while True:
                try:
                    found: list[TopicPartition] = consumer.committed(partitions, timeout=_ANSWER_S)
                    if broken := [p.error for p in found if p.error is not None]:
                        raise KafkaException(broken[0])
                    return found
                except KafkaException as e:
                    if e.args[0].code() not in _COORDINATOR_STARTS or time.monotonic() > deadline:
                        raise
                    time.sleep(0.1)
        finally:
            consumer.close()

    def read(self, begins: dict[Place, int], ends: dict[Place, int], handle: Callable[[list[Record]], None]) -> None:
        """Passes all records from `begins` to `ends` to `handle`, in chunks."""
        for chunk in self._chunks(begins, ends):
            handle(chunk)

    def tail_ids(self, topic: str, begins: dict[Place, int]) -> set[bytes]:
        """The ids of all tasks in a topic from these offsets to its end."""
        begins = {p: n for p, n in begins.items() if p[0] == topic}
        starts = self.starts(list(begins))
        begins = {p: max(n, starts[p]) for p, n in begins.items()}
        found = set[bytes]()
        for chunk in self._chunks(begins, self.ends(list(begins))):
            found.update(UUID(Task.without_headers(r).id).bytes for r in chunk)
        return found

    def story(self, ids: dict[bytes, int]) -> dict[bytes, Story]:
        """What the whole log holds of these tasks (id -> partition of an event): a scan of their partitions.

        A record with the id may also lie elsewhere than where its key belongs: both places are read.
        """
        count = len(self.places(["lifecycle.received"]))
        homes = {i: partition_of(str(UUID(bytes=i)).encode(), count) for i in ids}
        places = [(t, p) for t in EVENTS for p in sorted({*ids.values(), *homes.values()})]
        found = {i: Story() for i in ids}
        starts = self.starts(places)
        first_received_ms: dict[int, int] = {}
        for chunk in self._chunks(starts, self.ends(places)):
            for record in chunk:
                if record.topic == "lifecycle.received":
                    first_received_ms.setdefault(record.partition, record.timestamp_ms)
                spelt = id_of_key(record.key)
                task_story = found.get(UUID(spelt).bytes) if spelt else None
                if task_story is not None:
                    _add_to_story(task_story, record)
        for i, story in found.items():
            if starts["lifecycle.received", homes[i]]:
                story.first_received_ms = first_received_ms.get(homes[i], int(time.time() * 1000))
        return found

    def _chunks(self, begins: dict[Place, int], ends: dict[Place, int]) -> Iterator[list[Record]]:
        ranges = {place: (begin, ends[place]) for place, begin in begins.items()}
        consumer: Consumer = self._kafka.consumer(None, **SHORT_FETCH)
        try:
            for batch in read_batches(self._kafka, consumer, ranges, most=_CHUNK, silent_s=_SILENT_S):
                self._on_chunk()
                yield [self._kafka.record(message) for message in batch]
        finally:
            consumer.close()


def _add_to_story(story: Story, record: Record) -> None:
    event = EVENTS[record.topic]
    story.events.add(event)
    if (source := submission_source(event, record)) is not None:
        story.sources.add(str(source))
    with contextlib.suppress(Undecodable):
        story.submitted_ms = record.milliseconds("submitted-ms", 0) or story.submitted_ms
