"""Reads the storekeeper's own outputs to their end into its index, before it judges outcomes of a new partition.

The partition's previous owner may have sent terminal events that this index does not have; without this step the
storekeeper would send a second one. Where this index has less than a snapshot in the results root, it takes that first,
so only the newest events are read. Partitions that have little to read come first. Blocking: `Takeovers` calls it in
its thread, and what changes the index runs in the index's own (`use_thread`). KafkaException, Retryable, OSError and
sqlite3.OperationalError mean: try again, what has been read is kept.
"""

import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar

from confluent_kafka import Consumer, Message

from headrace.contract.ids import id_of_key
from headrace.contract.records import Place
from headrace.errors import Retryable
from headrace.kafka.client import SHORT_FETCH, Kafka
from headrace.kafka.log_time import earlier_now_ms
from headrace.kafka.metadata import installation_name
from headrace.kafka.reading import ANSWER_S, end_offsets, first_offsets, hidden_ends, offsets_at, place_of, read_batches
from headrace.process.catching_up import CatchingUp
from headrace.process.health import Watchdog
from headrace.process.throttled_log import log_throttled

from .base_file import BaseFile, Entry
from .index_snapshots import IndexSnapshots
from .terminal_index import OUTPUTS, TerminalIndex

log = logging.getLogger(__name__)
T = TypeVar("T")

_BATCH = 5000
_MERGE_FROM = 5000  # so many events of a partition go straight into its base file; SQLite takes them one by one
_MOST_HELD = 100_000  # events in memory at once, some 20 MB
_FEW_QUEUED = {"queued.max.messages.kbytes": 16 * 1024}  # librdkafka's own default takes 64 MB
_DAY_MS = 86_400_000

Bounds = Mapping[Place, tuple[int, int]]  # the first offset that is remembered, and the end


class IndexCatchup:
    """Has one consumer without a group for each reading. `watchdog` says that `catch_up` comes forward."""

    def __init__(
        self,
        kafka: Kafka,
        index: TerminalIndex,
        snapshots: IndexSnapshots | None = None,
        remember_days: float = 0,
        *,
        merge_from: int = _MERGE_FROM,
        most_held: int = _MOST_HELD,
    ) -> None:
        """`remember_days`: for how long an id is remembered after its end; 0 = as long as the outputs hold it.

        From `merge_from` new events of a partition on they go straight into its base file; `most_held` events are in
        memory at once.
        """
        self._kafka, self._index, self._snapshots, self._remember_days = kafka, index, snapshots, remember_days
        self._merge_from, self._most_held = merge_from, most_held
        self._consumer: Consumer | None = None
        self._thread: Executor | None = None
        self._known: dict[Place, int] = {}  # how far the partitions that are read now have been read; only replaced
        self._reading = CatchingUp(lambda: self._known)
        self._copying: str | None = None
        self.watchdog = Watchdog("the index's reading")

    def use_thread(self, thread: Executor) -> None:
        """The index belongs to that one thread from now on."""
        self._thread = thread

    def catch_up(
        self,
        partitions: Iterable[int],
        on_whole: Callable[[int], None] = lambda _: None,
        before_each: Callable[[], None] = lambda: None,
    ) -> int:
        """Brings the index up to the end of both outputs in those partitions; returns how many events it read.

        `on_whole` is called with each partition as soon as the index has all of it. `before_each` is called before each
        batch of events, and may raise to end the reading. Retryable when an open transaction hides events of a
        partition, after the others are whole: those events would be sent a second time.
        """
        try:
            return self._catch_up(partitions, on_whole, before_each)
        finally:
            self.close()  # idle until the next takeover, a consumer would gather errors through an outage

    def _catch_up(
        self, partitions: Iterable[int], on_whole: Callable[[int], None], before_each: Callable[[], None]
    ) -> int:
        wanted = sorted(set(partitions))
        self._reading.begin_again()
        self.watchdog.beat()
        name = installation_name(self._own_consumer(), self._kafka, OUTPUTS[0], ANSWER_S)
        self._in_index(lambda: self._index.adopt(name))
        bounds = self._bounds(wanted)
        hidden = hidden_ends(self._kafka, self._kafka.admin(), {place: end for place, (_, end) in bounds.items()})
        readable = [p for p in wanted if not any((output, p) in hidden for output in OUTPUTS)]
        known = self._in_index(self._index.positions)
        near = {p for p in readable if _to_read(p, _ranges(p, bounds, known)) < self._merge_from}
        count = 0
        for some in (sorted(near), [p for p in readable if p not in near]):
            count += self._catch_up_some(some, bounds, on_whole, before_each)
        for (topic, partition), offset in hidden.items():
            raise Retryable(f"an open transaction hides what {topic}/{partition} holds from offset {offset} on")
        self._in_index(self._index.filled)
        return count

    def progress(self) -> str | None:
        """For health, from any thread: what `catch_up` is at, in words; None when it has read everything."""
        return self._copying or self._reading.check()

    def forget_old(self, partitions: Iterable[int]) -> None:
        """Forgets ids that ended more than `remember_days` ago."""
        if not self._remember_days:
            return
        try:
            for place, (low, _) in self._bounds(partitions).items():
                self._in_index(partial(self._index.forget_before, place, low))
        finally:
            self.close()

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _own_consumer(self) -> Consumer:
        if self._consumer is None:
            self._consumer = self._kafka.consumer(None, **SHORT_FETCH | _FEW_QUEUED)
        return self._consumer

    def _in_index(self, step: Callable[[], T]) -> T:
        return step() if self._thread is None else self._thread.submit(step).result()

    def _bounds(self, partitions: Iterable[int]) -> Bounds:
        """What is remembered: what the log holds, but for what is too old by every clock."""
        places, admin = [(output, p) for output in OUTPUTS for p in partitions], self._kafka.admin()
        first, ends = first_offsets(self._kafka, admin, places), end_offsets(self._kafka, admin, places)
        bounds = {place: (first[place], ends[place]) for place in places}
        if not self._remember_days or not bounds:
            return bounds
        since_ms = int(earlier_now_ms(self._kafka, bounds) - self._remember_days * _DAY_MS)
        young = offsets_at(self._kafka, self._own_consumer(), dict.fromkeys(bounds, since_ms))
        return {
            place: (max(low, min(young[place], high)) if place in young else high, high)
            for place, (low, high) in bounds.items()
        }

    def _catch_up_some(
        self,
        partitions: Sequence[int],
        bounds: Bounds,
        on_whole: Callable[[int], None],
        before_each: Callable[[], None],
    ) -> int:
        for partition in partitions:
            before_each()
            self.watchdog.beat()
            self._take_snapshot(partition, bounds)
        self._copying = None
        known = self._in_index(self._index.positions)
        ranges = {p: _ranges(p, bounds, known) for p in partitions}
        self._in_index(lambda: self._prepare(ranges, bounds))
        sizes = {p: _to_read(p, some) for p, some in ranges.items()}
        self._begin_reading({place: bounds for some in ranges.values() for place, bounds in some.items()})
        count = 0
        for group in _groups(sizes, self._most_held):
            count += self._read({p: ranges[p] for p in group}, before_each)
            for partition in group:
                on_whole(partition)
        return count

    def _begin_reading(self, ranges: Bounds) -> None:
        self._known = {place: begin for place, (begin, _) in ranges.items()}
        self._reading.begin_again()
        self._reading.begin(self._known, {place: end for place, (_, end) in ranges.items()})

    def _take_snapshot(self, partition: int, bounds: Bounds) -> None:
        if self._snapshots is None:
            return
        self._copying = f"copies the index's snapshot of partition {partition} from the results root"
        known = self._in_index(self._index.positions)
        ends = {output: bounds[output, partition][1] for output in OUTPUTS}
        base = self._snapshots.load(self._index, partition, sum(known.get((o, partition), 0) for o in OUTPUTS), ends)
        if base is not None:
            self._in_index(lambda: self._index.use_base(base))

    def _prepare(self, ranges: Mapping[int, Bounds], bounds: Bounds) -> None:
        """In the index's thread: it forgets what is no longer remembered, and knows where the reading begins."""
        for some in ranges.values():
            for place in some:
                if (low := bounds[place][0]) > 0:
                    self._index.forget_before(place, low)
            self._index.add_entries((), {place: begin for place, (begin, _) in some.items()})

    def _read(self, ranges: Mapping[int, Bounds], before_each: Callable[[], None]) -> int:
        """Reads those partitions to their ends, in bounded memory; returns how many events there were."""
        count = 0
        held: dict[int, list[Entry]] = {p: [] for p in ranges}
        positions: dict[Place, int] = {}
        merged: set[int] = set()
        wanted = {place: bounds for some in ranges.values() for place, bounds in some.items()}
        for batch in read_batches(self._kafka, self._own_consumer(), wanted, most=_BATCH):
            before_each()
            self.watchdog.beat()
            for partition, entry in self._entries(batch, positions):
                held[partition].append(entry)
            count += len(batch)
            self._known = {**self._known, **positions}
            if sum(len(some) for some in held.values()) >= self._most_held:
                for partition, entries in held.items():
                    merged |= self._put(partition, entries, _of_partition(partition, positions))
                    entries.clear()
        for partition, some in ranges.items():
            ends = {place: end for place, (_, end) in some.items()}
            self.watchdog.beat()
            merged |= self._put(partition, held[partition], ends)
        if self._snapshots is not None:
            for partition in merged:
                self._snapshots.try_to_save(self._index.bases.path(partition), partition)
        return count

    def _entries(self, messages: Sequence[Message], positions: dict[Place, int]) -> Iterator[tuple[int, Entry]]:
        """The events in the messages, with their partitions; adds to `positions` how far they reach."""
        for message in messages:
            (topic, partition), offset = place_of(self._kafka, message)
            positions[topic, partition] = offset + 1
            key = message.key()
            task_id = id_of_key(key.encode() if isinstance(key, str) else key)
            if task_id is None:
                log_throttled("output", "%s/%d/%d passed over: its key is not a task id", topic, partition, offset)
                continue
            yield partition, (bytes.fromhex(task_id.replace("-", "")), OUTPUTS.index(topic), offset)

    def _put(self, partition: int, entries: list[Entry], positions: Mapping[Place, int]) -> set[int]:
        """Into the index: a few into its SQLite file, many into the partition's base file, which this thread writes.

        Returns the partitions whose base file has changed.
        """
        base = self._merge(partition, entries, positions) if len(entries) >= self._merge_from else None
        if base is not None and self._in_index(lambda: self._index.use_base(base)):
            self._in_index(lambda: self._index.add_rows((), positions))
            return {partition}
        self._in_index(lambda: self._index.add_rows([(i, o, partition, at) for i, o, at in entries], positions))
        return set()

    def _merge(self, partition: int, entries: list[Entry], positions: Mapping[Place, int]) -> BaseFile | None:
        covered = positions.get((OUTPUTS[0], partition), 0), positions.get((OUTPUTS[1], partition), 0)
        try:
            return self._index.bases.merge(partition, self._index.installation, entries, covered)
        except sqlite3.DatabaseError as e:
            error = e
            self._in_index(lambda: self._index.give_up(partition, error))
            raise


def _ranges(partition: int, bounds: Bounds, known: Mapping[Place, int]) -> dict[Place, tuple[int, int]]:
    """What is to be read of the partition's outputs."""
    found = {}
    for output in OUTPUTS:
        place = output, partition
        low, high = bounds[place]
        found[place] = max(low, min(known.get(place, low), high)), high
    return found


def _to_read(partition: int, ranges: Bounds) -> int:
    return sum(end - begin for (_, p), (begin, end) in ranges.items() if p == partition)


def _of_partition(partition: int, positions: Mapping[Place, int]) -> dict[Place, int]:
    return {place: offset for place, offset in positions.items() if place[1] == partition}


def _groups(sizes: Mapping[int, int], most: int) -> Iterator[list[int]]:
    """The partitions from the smallest on, as many at a time as have `most` events together, or one that has more."""
    group: list[int] = []
    for partition in sorted(sizes, key=lambda p: (sizes[p], p)):
        if group and sum(sizes[p] for p in group) + sizes[partition] > most:
            yield group
            group = []
        group.append(partition)
    if group:
        yield group
