"""The reaper: sends again what dead boots held. PROTOCOL, step 6, in its order and by its generation rule.

In every node, a thread with a consumer in the group `headrace-reaper`, which shares out the journal's partitions; each
is read from its beginning when it is given to this node. Nothing is judged before the end was read and the lease of
the boot is over, or its death proved. What two reapers send twice is dropped by rule D.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from agents.membership.death_notices import boot_tombstone, death_notice
from agents.membership.identity import NodeIdentity
from agents.membership.registry import Registry
from agents.recovery.journal_state import Held, JournalState
from agents.recovery.replay import decide
from agents.recovery.trimmer import Trimmer
from headrace.contract.journal import Claim
from headrace.contract.records import Place
from headrace.errors import Retryable
from headrace.kafka.client import Kafka, Sender, Sent, log_throttled, member_of
from headrace.kafka.groups import INTAKE_GROUP, REAPER_GROUP
from headrace.kafka.reading import ANSWER_S, offsets, place_of, read_ranges, words_of
from headrace.kafka.reading import committed as committed_offsets
from headrace.process.failpoints import Failpoint, no_failpoint
from headrace.process.health import Heart

log = logging.getLogger(__name__)

_TOPIC = "tasks.running"
_LOOK_S = 0.25  # how often the claims are compared with who is dead
_KEEP_S = 600.0  # a partition that comes back within it is read on from where we were; tombstones live for an hour
_OPTIONS = {
    "session.timeout.ms": 6000,
    "heartbeat.interval.ms": 500,
    "max.poll.interval.ms": 60_000,
    "partition.assignment.strategy": "range",
    "enable.partition.eof": True,
    "fetch.wait.max.ms": 100,  # the end of a log that is quiet is told of no sooner, and replays wait for that
}


class Reaper:
    """`at` names the places where fault tests step in; `trimmer`, if given, is this reaper's to call and to close."""

    def __init__(
        self,
        kafka: Kafka,
        sender: Sender,
        node: NodeIdentity,
        view: Registry,
        failpoint: Failpoint = no_failpoint,
        trimmer: Trimmer | None = None,
    ) -> None:
        self._trimmer = trimmer
        self._kafka, self._sender, self._node, self._view, self._failpoint = kafka, sender, node, view, failpoint
        self._admin = kafka.admin()
        self._owned: dict[int, JournalState] = {}
        self._parked: dict[int, tuple[float, JournalState]] = {}
        self._pending: list[tuple[Claim, list[Sent]]] = []  # sent again, not yet acknowledged
        self._looked_at = 0.0
        self._closing = threading.Event()
        self._heart = Heart("the reaper")
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)
        self.reaped = 0
        self.failure: Exception | None = None  # what has ended the thread
        self.on_failure: Callable[[Exception], None] = lambda _: None
        self.passed_over: Callable[[str], None] = lambda _: None  # told of the topic of each undecodable record

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(15)

    def check(self) -> str | None:
        """For the node's health."""
        return self._heart.check() if self.failure is None else f"has failed: {self.failure!r}"

    def _run(self) -> None:
        consumer = self._kafka.consumer(REAPER_GROUP, **_OPTIONS)
        committed = self._kafka.consumer(INTAKE_GROUP)  # asks for the intake group's offsets, and never joins it
        try:
            consumer.subscribe(
                [self._kafka.topic(_TOPIC)],
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_revoke,
            )
            while not self._closing.is_set():
                self._heart.beat()
                try:
                    self._read(consumer, 0.1)
                    self._finish_pending()
                    if time.monotonic() - self._looked_at >= _LOOK_S:
                        self._look(consumer, committed)
                        self._trim(consumer)
                        self._looked_at = time.monotonic()
                except (Retryable, KafkaException) as e:
                    words = words_of(e) if isinstance(e, KafkaException) else str(e)
                    log_throttled("reaper", "The reaper waits: %s", words)
                    self._closing.wait(0.5)
        except Exception as e:
            log.exception("The reaper has failed; its node ends, and others take its partitions")
            self.failure = e
            self.on_failure(e)
        finally:
            for one in (committed, consumer, self._trimmer):
                if one is not None:
                    one.close()

    def _new_state(self) -> JournalState:
        return JournalState(lambda: self.passed_over(_TOPIC))

    def _read(self, consumer: Consumer, wait_s: float) -> None:
        message, count = consumer.poll(wait_s), 0
        while message is not None:
            error, (place, offset) = message.error(), place_of(self._kafka, message)
            state = self._owned.get(place[1])
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF and state is not None:
                    state.next_offset, state.caught_up = max(state.next_offset, offset), True
                elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                    self._owned[place[1]] = self._new_state()
                    consumer.seek(TopicPartition(self._kafka.topic(_TOPIC), place[1], OFFSET_BEGINNING))
            elif state is not None and offset >= state.next_offset:
                state.apply(self._kafka.record(message))
            count += 1
            message = consumer.poll(0) if count < 1000 else None

    def _look(self, consumer: Consumer, committed: Consumer) -> None:
        """Judges the claims of dead boots, partition by partition."""
        failure_detector = self._view.failure_detector
        if 0 in self._owned:
            self._declare_dead()
            self._retire()
        for partition, state in list(self._owned.items()):
            dead = [h for h in state.live.values() if state.caught_up and failure_detector.is_dead(h.responsible)]
            if not dead:
                continue
            self._say_dead({h.responsible for h in dead})
            ends = committed_offsets(self._kafka, committed, {(s.topic, s.partition) for h in dead for s in h.sources})
            self._failpoint("reaper between committed offset and journal")
            if not self._read_to_end(consumer, partition, state):
                continue
            for held in dead:
                now = state.live.get(held.key)
                if now is not None and failure_detector.is_dead(now.responsible):
                    self._judge(state, now, ends)

    def _read_to_end(self, consumer: Consumer, partition: int, state: JournalState) -> bool:
        """Whether the journal's end of this moment has been read, and the partition is still ours."""
        end = offsets(self._kafka, self._admin, [(_TOPIC, partition)])[_TOPIC, partition]
        deadline = time.monotonic() + ANSWER_S
        while state.next_offset < end and time.monotonic() < deadline and not self._closing.is_set():
            self._read(consumer, 0.02)
        return state.next_offset >= end and self._owned.get(partition) is state

    def _judge(self, state: JournalState, held: Held, committed: dict[Place, int]) -> None:
        if all(state.is_void(s, held.generation) for s in held.sources):
            claim = self._claim(held)
            if claim is not None:
                self._sender.send(claim.tombstone("void"))
            state.live.pop(held.key, None)
            return
        effective = [s for s in held.sources if committed[s.topic, s.partition] > s.offset]
        claim = self._claim(held) if effective else None
        if claim is None:
            return  # not committed: its commit may still land, and if not, its source will be pulled again
        again = [
            t
            for t in claim.tasks
            if t.source in effective
            and t.source.offset not in held.resent
            and not state.is_void(t.source, held.generation)
        ]
        self._failpoint("reaper before reaping")
        sent = [self._sender.send(decide(t, claim, self._node)) for t in again]
        held.resent.update(t.source.offset for t in again)
        self.reaped += len(again)
        for task in again:
            log.info("Task %s is sent again: node %s is lost, attempt %d with it", task.id, claim.node, task.attempt)
        if len(effective) == len(held.sources):
            state.live.pop(held.key, None)
            self._pending.append((claim, sent))

    def _finish_pending(self) -> None:
        """Tombstones for claims all of whose members Kafka has again."""
        left = []
        for claim, sent in self._pending:
            if not all(f.done() for f in sent):
                left.append((claim, sent))
            elif all(f.exception() is None for f in sent):
                self._failpoint("reaper before tombstone")
                self._sender.send(claim.tombstone("reaped"))
        self._pending = left

    def _claim(self, held: Held) -> Claim | None:
        """The claim with its submissions, read again from its place; None when compaction has it no more."""
        found: list[Message] = []
        partition = held.sources[0].partition
        read_ranges(self._kafka, {(_TOPIC, partition): (held.offset, held.offset + 1)}, found.append, ANSWER_S)
        record = self._kafka.record(found[0]) if found else None
        return Claim.decode(record) if record is not None and record.value is not None else None

    def _trim(self, consumer: Consumer) -> None:
        """One partition a turn, and none whose claims we have not all read."""
        ready = [p for p, state in self._owned.items() if state.caught_up]
        partition = self._trimmer.due(ready) if self._trimmer is not None and not self._pending else None
        if self._trimmer is None or partition is None:
            return
        state = self._owned[partition]

        def live() -> Iterable[Held] | None:
            return state.live.values() if self._read_to_end(consumer, partition, state) else None

        self._trimmer.trim(partition, live)

    def _retire(self) -> None:
        """Boots that are long dead leave `nodes`; one reaper says so for all."""
        claimed = {h.responsible for state in self._owned.values() for h in state.live.values()}
        for boot in self._view.dead_boots.due_for_removal(claimed):
            self._view.dead_boots.forget_boot(boot)
            self._sender.send(boot_tombstone(boot))

    def _declare_dead(self) -> None:
        """One reaper says it for all: boots that are silent for longer than their lease."""
        self._say_dead(
            boot for boot in self._view.failure_detector.known_boots() if self._view.failure_detector.is_dead(boot)
        )

    def _say_dead(self, boots: Iterable[str]) -> None:
        for boot in boots:
            if not self._view.failure_detector.is_proved_dead(boot) and self._view.failure_detector.mark_announced(
                boot
            ):
                self._sender.send(death_notice(boot, self._view.failure_detector.last_heartbeat(boot)).encode())

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        now = time.monotonic()
        for p in partitions:
            parked_at, state = self._parked.get(p.partition, (0.0, self._new_state()))
            self._owned[p.partition] = state if now - parked_at < _KEEP_S else self._new_state()
        self._parked.clear()
        unread = [(_TOPIC, p.partition) for p in partitions if not self._owned[p.partition].next_offset]
        try:  # asked for here: librdkafka takes half a second to find out where a log begins
            first = offsets(self._kafka, self._admin, unread, first=True)
        except Retryable:
            first = {}
        starts = {
            p.partition: self._owned[p.partition].next_offset or first.get((_TOPIC, p.partition), OFFSET_BEGINNING)
            for p in partitions
        }
        consumer.assign([TopicPartition(p.topic, p.partition, starts[p.partition]) for p in partitions])
        self._node.remember_member(REAPER_GROUP, member_of(consumer)[1])

    def _on_revoke(self, _: Consumer, __: list[TopicPartition]) -> None:
        now = time.monotonic()
        self._parked = {p: (now, state) for p, state in self._owned.items()}
        self._owned.clear()
