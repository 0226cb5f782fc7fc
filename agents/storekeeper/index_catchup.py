"""Reads the storekeeper's own outputs to their end into its index, before it judges outcomes of a new partition.

The partition's previous owner may have sent terminal events that this index does not have; without this step the
storekeeper would send a second one. Where this index has less than a snapshot in the results root, it takes that first,
so only the newest events are read. Blocking, called in the storekeeper's working thread. KafkaException and Retryable
mean: try again.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from confluent_kafka import Consumer, Message, TopicPartition

from headrace.contract.ids import id_of_key
from headrace.contract.records import Place
from headrace.kafka.client import SHORT_FETCH, Kafka
from headrace.kafka.metadata import installation_name
from headrace.kafka.reading import ANSWER_S, log_bounds, place_of, read_batches, readable_whole
from headrace.process.catching_up import CatchingUp
from headrace.process.health import Watchdog
from headrace.process.throttled_log import log_throttled

from .index_snapshots import IndexSnapshots
from .terminal_index import OUTPUTS, IndexEntry, TerminalIndex

_BATCH = 5000
_AT_ONCE = 50_000  # events in one transaction: sorted by id, they fill the file's pages one after another
_DAY_MS = 86_400_000


class IndexCatchup:
    """Keeps one consumer without a group for all its readings. `watchdog` says that `catch_up` comes forward."""

    def __init__(
        self, kafka: Kafka, index: TerminalIndex, snapshots: IndexSnapshots | None = None, remember_days: float = 0
    ) -> None:
        """`remember_days`: for how long an id is remembered after its end; 0 = as long as the outputs hold it."""
        self._kafka, self._index, self._snapshots, self._remember_days = kafka, index, snapshots, remember_days
        self._consumer: Consumer | None = None
        self._read: dict[Place, int] = {}  # what of the last ranges is in the index; only replaced
        self._reading = CatchingUp(lambda: self._read)
        self._copying: str | None = None
        self.watchdog = Watchdog("the index's reading")

    def catch_up(self, partitions: Iterable[int]) -> int:
        """Brings the index up to the end of both outputs in those partitions; returns how many events it read."""
        self._copying = None
        self._reading.begin_again()
        self.watchdog.beat()
        consumer = self._own_consumer()
        self._index.adopt(installation_name(consumer, self._kafka, OUTPUTS[0], ANSWER_S))
        places = [(topic, p) for topic in OUTPUTS for p in partitions]
        # A terminal event that an open transaction hides would be sent a second time.
        readable_whole(self._kafka, self._kafka.admin(), places)
        bounds = self._remembered(consumer, log_bounds(self._kafka, consumer, places))
        if self._snapshots is not None:
            for partition in {p for _, p in places}:
                ends = {output: bounds[output, partition][1] for output in OUTPUTS}
                self._copying = f"copies the index's snapshot of partition {partition} from the results root"
                self._snapshots.take(self._index, partition, ends)
                self.watchdog.beat()
            self._copying = None
        known = self._index.positions()
        ranges: dict[Place, tuple[int, int]] = {}
        for place, (low, high) in bounds.items():
            ranges[place] = max(low, min(known.get(place, low), high)), high
            if low > 0:
                self._index.forget_before(place, low)
        self._index.add_entries((), {place: begin for place, (begin, _) in ranges.items()})
        count = self._index_ranges(consumer, ranges)
        self._index.filled()
        return count

    def progress(self) -> str | None:
        """For health, from any thread: what `catch_up` is at, in words; None when it has read everything."""
        return self._copying or self._reading.check()

    def forget_old(self, partitions: Iterable[int]) -> None:
        """Forgets ids that ended more than `remember_days` ago."""
        if not self._remember_days:
            return
        consumer, places = self._own_consumer(), [(topic, p) for topic in OUTPUTS for p in partitions]
        bounds = self._remembered(consumer, log_bounds(self._kafka, consumer, places))
        for place, (low, _) in bounds.items():
            self._index.forget_before(place, low)

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _own_consumer(self) -> Consumer:
        if self._consumer is None:
            self._consumer = self._kafka.consumer(None, **SHORT_FETCH)
        return self._consumer

    def _remembered(self, consumer: Consumer, bounds: Mapping[Place, tuple[int, int]]) -> dict[Place, tuple[int, int]]:
        """The bounds of what is remembered: what the log holds, but for what is too old."""
        if not self._remember_days:
            return dict(bounds)
        since_ms = int(time.time() * 1000 - self._remember_days * _DAY_MS)
        asked = [TopicPartition(self._kafka.topic(t), p, since_ms) for t, p in bounds]
        found = {}
        for at in consumer.offsets_for_times(asked, timeout=ANSWER_S):
            place = self._kafka.unprefixed(at.topic), at.partition
            low, high = bounds[place]
            found[place] = (max(low, min(at.offset, high)) if at.offset >= 0 else high), high
        return found

    def _index_ranges(self, consumer: Consumer, ranges: Mapping[Place, tuple[int, int]]) -> int:
        """Reads the ranges into the index, many events in one transaction; returns how many."""
        self._read = {place: begin for place, (begin, _) in ranges.items()}
        self._reading.begin(self._read, {place: end for place, (_, end) in ranges.items()})
        count = 0
        entries: list[IndexEntry] = []
        positions: dict[Place, int] = {}
        for batch in read_batches(self._kafka, consumer, ranges, most=_BATCH):
            entries += self._entries(batch, positions)
            self.watchdog.beat()
            if len(entries) >= _AT_ONCE:
                self._index.add_entries(entries, positions)
                self._read = {**self._read, **positions}
                count += len(entries)
                entries, positions = [], {}
        self._index.add_entries(entries, positions)
        return count + len(entries)

    def _entries(self, messages: Sequence[Message], positions: dict[Place, int]) -> Iterator[IndexEntry]:
        """The events in the messages; adds to `positions` how far they reach."""
        for message in messages:
            (topic, partition), offset = place_of(self._kafka, message)
            positions[topic, partition] = offset + 1
            key = message.key()
            task_id = id_of_key(key.encode() if isinstance(key, str) else key)
            if task_id is None:
                log_throttled("output", "%s/%d/%d passed over: its key is not a task id", topic, partition, offset)
                continue
            yield task_id, topic, partition, offset
