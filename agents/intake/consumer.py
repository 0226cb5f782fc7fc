"""The intake's consumer of the task topics: membership, positions and commits, all in the intake's one thread.

Eager rebalances with manual positions: on assignment it asks for the committed offsets, reads each partition's window
of repeats, and goes on from there. UsageError when the group has lost its offsets: it never starts over silently.
Retryable or KafkaException while Kafka is away.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from headrace.contract.records import Place
from headrace.errors import Retryable, UsageError
from headrace.kafka.client import Kafka, member_of
from headrace.kafka.groups import INTAKE_GROUP
from headrace.kafka.lost_offsets import why_lost
from headrace.kafka.partition_counts import PartitionCounts, read_partition_counts
from headrace.kafka.reading import ANSWER_S, committed_offsets, end_offsets, error_text, first_offsets, place_of
from headrace.process.health import STALE_S
from headrace.process.throttled_log import log_throttled

from .admission import decode_task
from .dedup_windows import DedupWindows
from .deduplication import DedupWindow
from .ready_queue import Pulled, ReadyQueue

log = logging.getLogger(__name__)

TOPICS = ("tasks.high", "tasks.normal")
_BATCH = 500
_OPTIONS = {
    "session.timeout.ms": 6000,  # the least that brokers allow; then a dead node's partitions move
    "heartbeat.interval.ms": 500,  # members learn of a rebalance from their next heartbeat
    # A commit may hold up the thread for a session's length, but a hung member must not stall the whole group.
    "max.poll.interval.ms": 30_000,
    "partition.assignment.strategy": "range",  # partition p of both topics, so an id and its replays, with one node
    "enable.partition.eof": True,  # the ready queue must know which records are still to come
    "fetch.wait.max.ms": 500,  # the longest wait of a resumed partition for its turn
    "queued.min.messages": 2000,
    "queued.max.messages.kbytes": 8192,
}

Membership = tuple[int, str]  # generation, member id


class TaskConsumer:
    """`on_member` is called with the group and the member id of each new membership."""

    def __init__(self, kafka: Kafka, queue: ReadyQueue, on_member: Callable[[str, str], None]) -> None:
        self._kafka, self._queue, self._on_member = kafka, queue, on_member
        self._consumer: Consumer = kafka.consumer(INTAKE_GROUP, **_OPTIONS)
        self._windows = DedupWindows(kafka)
        self._lost_offsets: str | None = None
        self._retry_assignment = False
        self.membership: Membership | None = None  # while partitions may be worked on
        self.journal_ends: dict[int, int] = {}  # of tasks.running, by partition, when this generation began
        self.stall_s = 0.0  # how long the last rebalance kept this node from its partitions
        self._stalled_at = time.monotonic()
        self._revoked_at = -math.inf  # when a rebalance, and no error here, has ended the last membership

    @property
    def places(self) -> list[Place]:
        """The partitions that this node owns."""
        return self._queue.places()

    def window_of(self, place: Place) -> DedupWindow:
        return self._windows.window_of(place)

    def check(self) -> str | None:
        """For health: None, or that it is no member. The moment that a rebalance takes makes no node unready."""
        if self.membership is not None or time.monotonic() - self._revoked_at <= STALE_S:
            return None
        return "the intake is not a member of its group yet"

    def join(self) -> None:
        """Asks to join the group. From now on call `fill_queue` often, or all members wait for this one."""
        self._stalled_at = time.monotonic()
        self._subscribe()

    def fill_queue(self, wait_s: float) -> None:
        """Serves the group and queues the records that have come; waits `wait_s` for the first one."""
        message = self._consumer.poll(wait_s)
        count = 0
        # One at a time: a message of poll() belongs to the assignment of that moment, a batch might straddle two.
        while message is not None:
            self._queue_message(message)
            count += 1
            message = self._consumer.poll(0) if count < _BATCH else None
        if self._lost_offsets is not None:
            raise UsageError(self._lost_offsets)
        if self._retry_assignment:
            self.rejoin()
            self._retry_assignment = False  # only then: an error leaves it to the next call
        self._pause_and_resume()

    def is_current(self, membership: Membership) -> bool:
        """Whether this node still has that membership, as far as it knows."""
        return self.membership == membership == member_of(self._consumer)

    def commit(self, membership: Membership, ends: Mapping[Place, int]) -> bool:
        """Commits as that member; returns whether the group has certainly accepted it.

        librdkafka sends a commit with its generation of that moment and repeats it after a lost connection. So even a
        plain rejection may follow an accepted commit: after False the caller must find out
        (`agents.intake.claim_commit`).
        """
        return self._commit(membership, ends)

    def confirm(self, membership: Membership, firsts: Mapping[Place, int]) -> bool:
        """Whether the group certainly has this membership now. Commits the offsets of the first records not settled."""
        return self._commit(membership, firsts)

    def _commit(self, membership: Membership, ends: Mapping[Place, int]) -> bool:
        if not self.is_current(membership):
            return False
        at = [TopicPartition(self._kafka.topic(t), p, end) for (t, p), end in ends.items()]
        try:
            answer = self._consumer.commit(offsets=at, asynchronous=False)
        except KafkaException as e:
            log_throttled("commit", "A commit is in doubt: %s", error_text(e))
            return False
        return all(a.error is None for a in answer) and self.is_current(membership)

    def committed(self, places: Iterable[Place]) -> dict[Place, int]:
        """The group's committed offsets, -1 for a place without one; Retryable."""
        found = committed_offsets(self._kafka, self._consumer, places)
        return {place: max(-1, offset) for place, offset in found.items()}

    def seek_back(self, starts: Mapping[Place, int]) -> None:
        """Pulls the records from these offsets on again."""
        for (topic, partition), offset in starts.items():
            if self._queue.owns((topic, partition)):
                self._consumer.seek(TopicPartition(self._kafka.topic(topic), partition, offset))
                self._queue.rewind((topic, partition), offset)

    def rejoin(self) -> None:
        """Leaves the group and asks to join again; the next membership has a higher generation."""
        self._drop_records()
        self._consumer.unsubscribe()
        self._subscribe()

    def rejoin_soon(self) -> None:
        """Forgets all records that are not committed, and has `fill_queue` rejoin the group. Cannot fail."""
        self._drop_records()
        self._retry_assignment = True

    def leave(self) -> None:
        """Leaves the group for good."""
        self._drop_records()
        self._consumer.close()

    def _subscribe(self) -> None:
        self._consumer.subscribe(
            [self._kafka.topic(t) for t in TOPICS],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_revoke,
        )

    def _queue_message(self, message: Message) -> None:
        error = message.error()
        place, offset = place_of(self._kafka, message)
        if error is None:
            record = self._kafka.record(message)
            task, header_error = decode_task(record)
            self._queue.add_record(Pulled(record, task, header_error), self._known_end(place))
        elif error.code() == KafkaError._PARTITION_EOF:
            self._queue.mark_end(place, offset)
        elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            why = "the log no longer holds the committed offset"
            self._lost_offsets = _lost_offsets_error(self._kafka, [place], why)
        else:
            log_throttled(f"intake {error.name()}", "The intake cannot read %s: %s", place[0], error.str())

    def _known_end(self, place: Place) -> int:
        at = TopicPartition(self._kafka.topic(place[0]), place[1])
        _, end = self._consumer.get_watermark_offsets(at, cached=True)
        return int(end)

    def _pause_and_resume(self) -> None:
        """Stops fetching full partitions, so that a backlog in one neither fills memory nor hides the others."""
        for change, places in (
            (self._consumer.pause, self._queue.to_pause()),
            (self._consumer.resume, self._queue.to_resume()),
        ):
            if places:
                change([TopicPartition(self._kafka.topic(t), p) for t, p in places])

    def _drop_records(self) -> None:
        """Before partitions are revoked. Resumes the paused ones: they would come back paused."""
        if self.membership is not None:
            self._stalled_at = time.monotonic()
        self.membership = None
        if paused := self._queue.clear():
            with contextlib.suppress(KafkaException):  # they are revoked already
                self._consumer.resume([TopicPartition(self._kafka.topic(t), p) for t, p in paused])

    def _on_revoke(self, _: Consumer, __: list[TopicPartition]) -> None:
        if self.membership is not None:
            self._revoked_at = time.monotonic()
        self._drop_records()

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        places = [(self._kafka.unprefixed(p.topic), p.partition) for p in partitions]
        try:
            starts = self._read_starts(places)
            consumer.assign([TopicPartition(self._kafka.topic(t), p, at) for (t, p), (at, _) in starts.items()])
        except UsageError as e:
            self._lost_offsets = str(e)
            consumer.assign([])
            return
        except Retryable as e:
            log_throttled("assignment", "The intake asks for its assignment again: %s", e)
            consumer.assign([])
            self._retry_assignment = True
            return
        self._queue.assign(starts)
        self.membership = member_of(consumer)
        self._on_member(INTAKE_GROUP, self.membership[1])
        self.stall_s = time.monotonic() - self._stalled_at
        log.info("Generation %d: %d partitions, after %.3f s", self.membership[0], len(places), self.stall_s)

    def _read_starts(self, places: list[Place]) -> dict[Place, tuple[int, int]]:
        """Where each partition goes on, and where it ends. Reads their windows of repeats."""
        partitions, counts = {p for _, p in places}, read_partition_counts(self._kafka, ANSWER_S)
        journal = end_offsets(self._kafka, self._kafka.admin(), [("tasks.running", p) for p in partitions])
        self.journal_ends = {p: end for (_, p), end in journal.items()}
        ends = end_offsets(self._kafka, self._kafka.admin(), places)
        first = first_offsets(self._kafka, self._kafka.admin(), places)
        begins = self.committed(places)
        gone = {p: why for p, at in begins.items() if at >= 0 and (why := why_lost(at, first[p], max(at, ends[p])))}
        if gone:
            raise UsageError(_lost_offsets_error(self._kafka, [*gone], next(iter(gone.values()))))
        new = [place for place in places if begins[place] < 0]
        if new:
            self._commit_first_offsets(new, first, ends, counts)
            begins |= dict.fromkeys(new, 0)
        self._windows.read_back(self._consumer, begins, first, counts)
        return {place: (at, ends[place]) for place, at in begins.items()}

    def _commit_first_offsets(
        self, new: list[Place], first: Mapping[Place, int], ends: Mapping[Place, int], counts: PartitionCounts
    ) -> None:
        """Partitions without a committed offset begin at 0 if nothing was ever claimed from them; UsageError otherwise.

        Partition p of the journal has the claims on partition p of the task topics, and its end stays above 0 after the
        first claim. The 0 is committed at once: from then on a missing offset is a lost one. A partition that a growth
        has added may come later than that of the other task topic, and have records by then; that the group has not
        lost its offsets shows in the partitions that were there before.
        """
        lost = [at for at in new if ends[at] > 0 and (first[at] > 0 or self.journal_ends[at[1]] > 0)]
        grown = {at: (at[0], counts.home_of(at[1])) for at in lost if counts.is_grown(at) and not first[at]}
        older = self.committed(set(grown.values()))
        lost = [at for at in lost if at not in grown or older[grown[at]] < 0]
        if lost:
            raise UsageError(_lost_offsets_error(self._kafka, lost, "tasks have been claimed from them before"))
        begin = [TopicPartition(self._kafka.topic(t), p, 0) for t, p in new]
        try:
            self._consumer.commit(offsets=begin, asynchronous=False)
        except KafkaException as e:
            raise Retryable(f"the first offsets could not be committed: {error_text(e)}") from None


def _lost_offsets_error(kafka: Kafka, places: list[Place], why: str) -> str:
    group, (topic, partition) = kafka.group(INTAKE_GROUP), places[0]
    by_topic: dict[str, list[str]] = {}
    for t, p in sorted(places):
        by_topic.setdefault(kafka.topic(t), []).append(str(p))
    listed = "; ".join(f"{t}: partitions {', '.join(ps)}" for t, ps in by_topic.items())
    return (
        f"group {group} has lost its offsets for {listed}: {why}. Stop all workers, then set the offsets with "
        f"kafka-consumer-groups.sh --group {group} --topic {kafka.topic(topic)}:{partition} --reset-offsets "
        "--to-earliest --execute to run again what the log holds, or with --to-latest to skip it"
    )
