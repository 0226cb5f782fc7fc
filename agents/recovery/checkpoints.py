"""Where a new owner of a partition of the journal begins: kept as the committed offset of the reapers' group.

Used by the reaper, in its thread; nobody else commits for this group. The offset is the beginning of the oldest open
claim, and the commit's metadata has the ranges of the owners, so nothing before it can change how a claim is judged
(docs/design/0037). Any older checkpoint is as right as the newest, only slower to begin from: a save that fails, is
rejected or does not fit costs nothing else. Without any, the journal is read from its first record on.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headrace.errors import Retryable, Undecodable
from headrace.kafka.client import Kafka
from headrace.kafka.groups import REAPER_GROUP
from headrace.kafka.reading import committed, end_offsets, first_offsets
from headrace.process.throttled_log import log_throttled

from ..monitoring.protocol_metrics import ProtocolMetrics
from .journal_state import Checkpoint, JournalState

log = logging.getLogger(__name__)

TOPIC = "tasks.running"
EVERY_S = 5.0  # a new owner reads so much more
MAX_METADATA = 4096  # bytes: the broker's offset.metadata.max.bytes, unless it was changed
# A rebalance has come between. The next owner saves its own, or this member at the next time.
_PASSING = (KafkaError.ILLEGAL_GENERATION, KafkaError.REBALANCE_IN_PROGRESS, KafkaError.UNKNOWN_MEMBER_ID)


class Checkpoints:
    """Belongs to one thread."""

    def __init__(self, kafka: Kafka, every_s: float = EVERY_S, metrics: ProtocolMetrics | None = None) -> None:
        """They are saved every `every_s` seconds."""
        self._kafka, self._every_s = kafka, every_s
        self._metrics = metrics or ProtocolMetrics()
        self._saved: dict[int, Checkpoint] = {}  # by partition
        self._refused: set[int] = set()  # partitions whose newest checkpoint is too large, or was not taken
        self._saved_at = 0.0

    def begin(self, partitions: Iterable[int], passed_over: Callable[[], None]) -> dict[int, JournalState]:
        """States to read on from, by partition: from their checkpoints, or from the journal's first records.

        Without Kafka's answer the first record is not known either: then `next_offset` is 0.
        """
        places = [(TOPIC, p) for p in partitions]
        try:  # the checkpoints first: the journal's end, asked for later, lies behind each of them
            saved = self._read([p for _, p in places])
            # The first offset is asked for too, because librdkafka takes half a second to find out where a log begins.
            first = first_offsets(self._kafka, self._kafka.admin(), places)
            ends = end_offsets(self._kafka, self._kafka.admin(), places)
        except Retryable as e:
            log_throttled("checkpoints", "The reaper reads its partitions from their beginning: %s", e)
            return {p: JournalState(passed_over) for _, p in places}
        states = {}
        for place in places:
            partition = place[1]
            start = saved.get(partition)
            if start is not None and not first[place] <= start.offset <= ends[place]:
                start = None  # of a journal that was made anew, or has lost its end
            states[partition] = _state(partition, start, passed_over)
            states[partition].next_offset = max(first[place], states[partition].next_offset)
        return states

    def save(self, consumer: Consumer, states: Mapping[int, JournalState]) -> None:
        """Saves those that have changed, without waiting for Kafka. `consumer` is the group's member."""
        if time.monotonic() - self._saved_at < self._every_s:
            return
        self._saved_at = time.monotonic()
        self._refused &= states.keys()
        due = {p: c for p, state in states.items() if (c := state.checkpoint()) != self._saved.get(p)}
        self._pass_over_large(due)
        self._metrics.unsaved_checkpoints.set(len(self._refused))
        if not due:
            return
        topic = self._kafka.topic(TOPIC)
        offsets = [TopicPartition(topic, p, c.offset, c.ranges) for p, c in due.items()]
        self._saved |= due
        try:
            consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as e:
            self.on_commit(e.args[0], offsets)

    def on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        """Kafka's answer to a save, in the thread that polls the consumer."""
        for p in partitions:
            why = error or p.error
            if why is None:
                self._refused.discard(p.partition)
                continue
            self._saved.pop(p.partition, None)  # saved again at the next time
            if why.code() not in _PASSING:
                self._refused.add(p.partition)
                log_throttled("checkpoints", "A checkpoint of the journal is not saved: %s", why.str())

    def _pass_over_large(self, due: dict[int, Checkpoint]) -> None:
        """Takes those out that a commit cannot hold. With fewer ranges they could judge wrongly; the last that was
        saved still holds."""
        for partition in [p for p, c in due.items() if len(c.ranges) > MAX_METADATA]:
            ranges = due.pop(partition).ranges
            self._refused.add(partition)
            log_throttled(
                "large checkpoint",
                "The checkpoint of %s/%d needs %d bytes, and Kafka takes %d: the partition has had too many owners "
                "within two hours. Until it has had fewer, its next owner reads more of the journal before it replays. "
                "Look for nodes that restart again and again",
                TOPIC,
                partition,
                len(ranges),
                MAX_METADATA,
            )

    def _read(self, partitions: Iterable[int]) -> dict[int, Checkpoint]:
        """The saved ones, by partition; Retryable."""
        places, reader = [(TOPIC, p) for p in partitions], self._kafka.group_reader(REAPER_GROUP)
        found = committed(self._kafka, reader, places, what="the checkpoints of the journal")
        return {p: Checkpoint(at.offset, at.metadata or "") for (_, p), at in found.items() if at.offset >= 0}


def _state(partition: int, start: Checkpoint | None, passed_over: Callable[[], None]) -> JournalState:
    try:
        return JournalState(passed_over, start)
    except Undecodable as e:
        log.warning("The checkpoint of %s/%d cannot be used, and the journal is read whole: %s", TOPIC, partition, e)
        return JournalState(passed_over)
