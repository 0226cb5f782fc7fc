"""A consumer that no batch stops: one that cannot be decoded is passed over, and everything behind it is read.

Every consumer of every role is made of this class (`Kafka.consumer`). librdkafka 2.16 repeats the fetch of a batch with
an unknown codec for ever, stands still behind an unknown magic byte, and goes on at a random offset behind a wrong
checksum. Of a damaged batch of a task topic, the records whose keys can be read are delivered without their values, so
that each task ends as a dead letter; every reader makes the same ones. `poll` and `consume` take a moment longer then.
"""

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from headrace.contract.ids import id_of_key
from headrace.contract.records import DAMAGED_VALUE, Place
from headrace.kafka.damaged_batches import DamagedBatch, DamagedBatches, next_base, readable_keys
from headrace.kafka.groups import NO_GROUP

log = logging.getLogger(__name__)

_UNDECODABLE = (KafkaError._BAD_MSG, KafkaError._BAD_COMPRESSION, KafkaError._NOT_IMPLEMENTED)
_LOST = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)
_ANSWER_S = 5.0
_SILENT_S = 1.5
_FETCH_BYTES = 8 * 1024 * 1024  # at least one batch and the beginning of the next

RawFetch = Callable[[str, int, int], tuple[bytes, int]]  # topic, partition, offset -> batches, high watermark


class DamagedRecord:
    """A record whose key alone can be read, with the methods of a Message that readers use."""

    def __init__(self, topic: str, partition: int, offset: int, key: bytes, timestamp_ms: int, why: str) -> None:
        self._topic, self._partition, self._offset, self._key = topic, partition, offset, key
        self._timestamp_ms, self._value = timestamp_ms, DAMAGED_VALUE + why.encode()

    def topic(self) -> str:
        return self._topic

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes:
        return self._key

    def value(self) -> bytes:
        return self._value

    def headers(self) -> None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return 2, self._timestamp_ms

    def error(self) -> None:
        return None


class LogConsumer(Consumer):
    """confluent-kafka's Consumer, except that no message with an error of decoding comes out of it."""

    def __init__(
        self,
        config: dict[str, Any],
        *,
        unprefixed: Callable[[str], str],
        damaged: DamagedBatches,
        fetch: RawFetch,
    ) -> None:
        """`unprefixed` gives a topic's name without the installation's prefix."""
        config = config | {"check.crcs": True}
        super().__init__(config)
        self._config = {k: v for k, v in config.items() if k != "on_commit"}
        self._unprefixed, self._damaged, self._fetch = unprefixed, damaged, fetch
        self._in_group = False
        self._made: deque[Any] = deque()  # damaged records to be delivered
        self._passed: dict[tuple[str, int], int] = {}  # partition -> offset at which reading went on, until it has
        self._paused: set[tuple[str, int]] = set()
        self._starts: dict[tuple[str, int], int] = {}  # where reading was told to go on, until it has

    def poll(self, timeout: float = -1) -> Message | None:
        if self._made:
            return self._made.popleft()  # type: ignore[no-any-return]
        message = super().poll(timeout)
        if message is None or (message.error() is None and not self._starts and not self._passed):
            return message
        return message if self._is_wanted(message, set()) else None

    def consume(self, num_messages: int = 1, timeout: float = -1) -> list[Message]:
        made = [self._made.popleft() for _ in range(min(num_messages, len(self._made)))]
        if len(made) == num_messages:
            return made
        messages = super().consume(num_messages - len(made), 0 if made else timeout)
        if self._starts or self._passed or any(m.error() is not None for m in messages):
            moved: set[tuple[str, int]] = set()
            messages = [m for m in messages if self._is_wanted(m, moved)]
        return made + messages

    def assign(self, partitions: list[TopicPartition]) -> None:
        self._forget()
        self._starts = {(p.topic, p.partition): p.offset for p in partitions}
        super().assign(partitions)

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        self._starts |= {(p.topic, p.partition): p.offset for p in partitions}
        super().incremental_assign(partitions)

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        gone = {(p.topic, p.partition) for p in partitions}
        self._made = deque(m for m in self._made if (m.topic(), m.partition()) not in gone)
        for place in gone:
            self._passed.pop(place, None)
            self._starts.pop(place, None)
        self._paused -= gone
        super().incremental_unassign(partitions)

    def unassign(self) -> None:
        self._forget()
        super().unassign()

    def subscribe(self, *arguments: Any, **callbacks: Any) -> None:
        self._in_group = True
        super().subscribe(*arguments, **callbacks)

    def close(self) -> None:
        """Leaves the group. Call it in the thread that polls.

        During a rebalance librdkafka 2.16 puts a subscription off, as after `unsubscribe` and `subscribe`. `close`
        alone would leave it to be carried out, and abort the process over it; another `unsubscribe` takes it back.
        """
        if self._in_group:
            self._in_group = False
            super().unsubscribe()
        super().close()

    def seek(self, partition: TopicPartition) -> None:
        place = partition.topic, partition.partition
        self._made = deque(m for m in self._made if (m.topic(), m.partition()) != place)
        self._starts[place] = partition.offset
        super().seek(partition)

    def pause(self, partitions: list[TopicPartition]) -> None:
        super().pause(partitions)
        self._paused |= {(p.topic, p.partition) for p in partitions}

    def resume(self, partitions: list[TopicPartition]) -> None:
        self._paused -= {(p.topic, p.partition) for p in partitions}
        super().resume(partitions)

    def _forget(self) -> None:
        self._made.clear()
        self._passed.clear()
        self._paused.clear()
        self._starts.clear()

    def _is_wanted(self, message: Message, moved: set[tuple[str, int]]) -> bool:
        """Whether the caller may see it. `moved`: partitions that go on elsewhere, so what follows of them is void."""
        error, partition, offset = message.error(), message.partition(), message.offset()
        if partition is None or offset is None:
            return True
        place = message.topic() or "", partition
        if place in moved:
            return False
        if error is not None and error.code() in _UNDECODABLE and partition >= 0:
            if self._may_hold(place, offset):
                self._pass_over(place, offset, error.str())
                moved.add(place)
            return False
        if error is not None and error.code() in _LOST and self._passed.get(place, offset) != offset:
            return False  # from the random offset behind a wrong checksum
        if error is None or error.code() == KafkaError._PARTITION_EOF:
            self._passed.pop(place, None)
            self._starts.pop(place, None)
        return True

    def _may_hold(self, place: tuple[str, int], offset: int) -> bool:
        """Whether the log can hold that offset: behind a wrong checksum librdkafka takes other bytes for offsets."""
        _, high_watermark = self.get_watermark_offsets(TopicPartition(*place), cached=True)
        return not 0 <= high_watermark <= offset

    def _pass_over(self, place: tuple[str, int], offset: int, error: str) -> None:
        at = TopicPartition(*place)
        was_paused = place in self._paused
        super().pause([at])  # else it would fetch on from nonsense meanwhile
        try:
            batch = self._look_into(place, offset, error)
        except KafkaException as e:
            log.info("%s/%d is read again from offset %d on: %s", *place, offset, e)
            batch = None
        self._go_on(place, offset if batch is None else batch.next_offset)
        if not was_paused:
            super().resume([at])
        if batch is None:
            return
        if self._damaged.add(batch):
            log.warning("%s", batch)
        if batch.place[0] in ("tasks.normal", "tasks.high"):
            for record_offset, key in batch.readable:
                if id_of_key(key) is not None:
                    self._made.append(DamagedRecord(*place, record_offset, key, batch.timestamp_ms, batch.why))

    def _look_into(self, place: tuple[str, int], offset: int, error: str) -> DamagedBatch:
        own: Place = self._unprefixed(place[0]), place[1]
        if (known := self._damaged.find(own, offset)) is not None:
            return known
        try:
            raw, high_watermark = self._fetch(*place, offset)
            following = next_base(raw, high_watermark)
            keys, timestamp_ms = readable_keys(raw)
        except Exception as e:  # noqa: BLE001 - no aiokafka, or one of its many errors: then by trying
            log.info("The batch at %s/%d/%d cannot be fetched as it is: %s", *place, offset, e or type(e).__name__)
            following, keys, timestamp_ms = self._search_end(place, offset), [], 0
        return DamagedBatch(own, offset, following, error, tuple(keys), max(0, timestamp_ms))

    def _search_end(self, place: tuple[str, int], base: int) -> int:
        """The offset after the batch that begins at `base`, by trying where reading goes wrong in the same batch."""
        size = 1
        while self._fails_in(base, place, base + size):
            size *= 2
        inside, beyond = base + size // 2, base + size
        while beyond - inside > 1:
            middle = (inside + beyond) // 2
            if self._fails_in(base, place, middle):
                inside = middle
            else:
                beyond = middle
        return beyond

    def _fails_in(self, base: int, place: tuple[str, int], offset: int) -> bool:
        """Whether reading from `offset` on fails in that batch, with an error or in silence; KafkaException.

        A new client each time, because one tells an error once.
        """
        consumer = Consumer(self._config | {"group.id": NO_GROUP, "enable.partition.eof": True})
        try:
            consumer.assign([TopicPartition(*place, offset)])
            message = consumer.poll(_SILENT_S)
            if message is None:
                _, high_watermark = consumer.get_watermark_offsets(
                    TopicPartition(*place), timeout=_ANSWER_S
                )  # raises if Kafka is away
                message = consumer.poll(_SILENT_S)
                return message is None and offset < high_watermark
            error = message.error()
            return error is not None and error.code() in _UNDECODABLE and message.offset() == base
        finally:
            consumer.close()

    def _go_on(self, place: tuple[str, int], offset: int) -> None:
        try:
            super().seek(TopicPartition(*place, offset))
        except KafkaException:  # it has already stopped fetching the partition, at that random offset
            self._assign_again(place, offset)
        self._passed[place] = self._starts[place] = offset

    def _assign_again(self, place: tuple[str, int], offset: int) -> None:
        """Assigns all partitions anew, each where its reading goes on."""
        assigned = self.assignment()
        starts = {(p.topic, p.partition): p.offset for p in self.position(assigned)} | self._starts | {place: offset}
        super().assign([TopicPartition(p.topic, p.partition, starts[p.topic, p.partition]) for p in assigned])
        if paused := [TopicPartition(*p) for p in self._paused]:
            super().pause(paused)


def fetch_raw(kafka: Any, topic: str, partition: int, offset: int) -> tuple[bytes, int]:
    """The batches from that offset on as they lie in the log, and the high watermark.

    `kafka` is a `headrace.kafka.client.Kafka`. ImportError without aiokafka, LookupError, and aiokafka's errors.
    """
    import asyncio  # here, because the command line needs none of it

    return asyncio.run(_fetch(kafka, topic, partition, offset))


async def _fetch(kafka: Any, topic: str, partition: int, offset: int) -> tuple[bytes, int]:
    from aiokafka.protocol.fetch import FetchRequest

    from headrace.kafka.raw_client import leader_of, raw_client

    async with raw_client(kafka, _ANSWER_S) as client:
        leader = await leader_of(client, topic, partition)
        wanted = [(topic, [(partition, offset, _FETCH_BYTES)])]
        answer = await client.send(leader, FetchRequest(0, 0, _FETCH_BYTES, 0, wanted))
        [(_, [(_, error, high_watermark, *rest)])] = answer.topics
        if error or not rest[-1]:
            raise LookupError(f"Kafka does not give the batch: error {error}")
        return rest[-1], high_watermark
