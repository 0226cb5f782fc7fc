"""The reaper: sends again what dead boots have claimed. Step 6 of the protocol (docs/protocol.md), with its rule of
epochs.

A thread in every node, with a consumer in a group that shares out the journal's partitions. A partition is read from
its oldest open claim on when this node gets it. A claim is judged only after the partition has been read to its end and
its boot is dead: by its lease, or because its death is proved. When two reapers send the same task again, rule D drops
the second.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from headrace.contract.journal import Claim
from headrace.contract.records import Place
from headrace.errors import Retryable
from headrace.kafka.client import UNHURRIED_FETCH, Kafka, member_of
from headrace.kafka.groups import INTAKE_GROUP, REAPER_GROUP
from headrace.kafka.reading import (
    ANSWER_S,
    committed_offsets,
    end_offsets,
    error_text,
    place_of,
    read_ranges,
    readable_whole,
)
from headrace.kafka.sender import Sender
from headrace.process.catching_up import CatchingUp
from headrace.process.failpoints import Failpoint, no_failpoint
from headrace.process.health import Watchdog
from headrace.process.taking_over import TakingOver
from headrace.process.throttled_log import log_throttled

from ..membership.death_notices import boot_tombstone, death_notice
from ..membership.identity import NodeIdentity
from ..membership.registry import Registry
from ..monitoring.protocol_metrics import ProtocolMetrics
from .checkpoints import TOPIC as _TOPIC
from .checkpoints import Checkpoints
from .claim_ends import ClaimEnds
from .journal_state import JournalState, LiveClaim
from .replay import replay_or_outcome
from .trimmer import Trimmer

log = logging.getLogger(__name__)

_JUDGE_EVERY_S = 0.25  # how often the claims are compared with the dead boots
_KEEP_S = 600.0  # a partition that comes back within it is read on, not anew; tombstones stay for an hour
_OPTIONS = {
    "session.timeout.ms": 6000,
    "heartbeat.interval.ms": 500,
    "max.poll.interval.ms": 60_000,
    "partition.assignment.strategy": "range",
    "enable.partition.eof": True,
    **UNHURRIED_FETCH,  # a quiet partition reports its end only after its wait, and replays wait for it
}


class Reaper:
    """Set the callbacks before `start`. `on_failure` is called when an error has ended the thread, and `on_undecodable`
    with the topic of each undecodable record."""

    def __init__(
        self,
        kafka: Kafka,
        sender: Sender,
        node: NodeIdentity,
        registry: Registry,
        *,
        failpoint: Failpoint = no_failpoint,
        trimmer: Trimmer | None = None,
        checkpoints: Checkpoints | None = None,
        metrics: ProtocolMetrics | None = None,
    ) -> None:
        """`trimmer` and `checkpoints`, if given, belong to this reaper's thread."""
        self._trimmer, self._metrics = trimmer, metrics or ProtocolMetrics()
        self._kafka, self._sender, self._node, self._registry = kafka, sender, node, registry
        self._failpoint = failpoint
        self._owned: dict[int, JournalState] = {}
        self._revoked: dict[int, tuple[float, JournalState]] = {}  # with the time of revocation
        self._checkpoints = checkpoints or Checkpoints(kafka, metrics=self._metrics)
        self._ends = ClaimEnds(sender, failpoint)
        self._judged_at = 0.0
        self._reading = CatchingUp(lambda: {(_TOPIC, p): s.next_offset for p, s in list(self._owned.items())})
        self._taking_over = TakingOver(self._reading.check)
        self._generation = -1
        self._starts: dict[Place, int] | None = None  # of partitions whose ends have not been asked for yet
        self._closing = threading.Event()
        self._watchdog = Watchdog("the reaper")
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)
        self.failure: Exception | None = None  # what has ended the thread
        self.on_failure: Callable[[Exception], None] = lambda _: None
        self.on_undecodable: Callable[[str], None] = lambda _: None

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(15)

    def check(self) -> str | None:
        """For the node's health: None, or the reason in words."""
        if self.failure is not None:
            return f"has failed: {self.failure!r}"
        return self._watchdog.check() or self._taking_over.check()

    def _run(self) -> None:
        consumer = self._kafka.consumer(REAPER_GROUP, on_commit=self._checkpoints.on_commit, **_OPTIONS)
        try:
            consumer.subscribe(
                [self._kafka.topic(_TOPIC)],
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_revoke,
            )
            while not self._closing.is_set():
                self._watchdog.beat()
                try:
                    self._read_journal(consumer, 0.1)
                    self._ends.send_tombstones(lambda partition, state: self._owned.get(partition) is state)
                    if time.monotonic() - self._judged_at >= _JUDGE_EVERY_S:
                        self._judge_claims(consumer)
                        self._trim(consumer)
                        self._checkpoints.save(consumer, self._owned)
                        self._judged_at = time.monotonic()
                    self._note_progress()  # last: a partition without a leader must hold up no other's claims
                except (Retryable, KafkaException) as e:
                    words = error_text(e) if isinstance(e, KafkaException) else str(e)
                    log_throttled("reaper", "The reaper waits: %s", words)
                    self._closing.wait(0.5)
        except Exception as e:
            log.exception("The reaper has failed; its node ends, and others take its partitions")
            self.failure = e
            self.on_failure(e)
        finally:
            consumer.close()

    def _passed_over(self) -> None:
        self.on_undecodable(_TOPIC)

    def _read_journal(self, consumer: Consumer, wait_s: float) -> None:
        message, count = consumer.poll(wait_s), 0
        while message is not None:
            error, (place, offset) = message.error(), place_of(self._kafka, message)
            state = self._owned.get(place[1])
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF and state is not None:
                    state.next_offset, state.caught_up = max(state.next_offset, offset), True
                elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                    self._owned[place[1]] = JournalState(self._passed_over)
                    consumer.seek(TopicPartition(self._kafka.topic(_TOPIC), place[1], OFFSET_BEGINNING))
            elif state is not None and offset >= state.next_offset:
                state.apply_record(self._kafka.record(message))
                self._metrics.journal_records.inc()
            count += 1
            message = consumer.poll(0) if count < 1000 else None

    def _note_progress(self) -> None:
        """For health. Retryable when Kafka does not say where the journal ends."""
        if self._starts is not None:
            starts = self._starts
            ends = end_offsets(self._kafka, self._kafka.admin(), starts)
            self._reading.begin({p: max(0, at) for p, at in starts.items()}, ends)
            self._starts = None
        if self._taking_over.is_under_way and self._reading.whole():
            self._taking_over.end(self._generation)

    def _judge_claims(self, consumer: Consumer) -> None:
        """Judges the claims of dead boots, partition by partition."""
        detector = self._registry.failure_detector
        if 0 in self._owned:
            self._declare_silent_boots()
            self._forget_dead_boots()
        for partition, state in list(self._owned.items()):
            open_claims = [c for c in state.live.values() if state.caught_up and not self._ends.is_ending(c.key)]
            dead = [c for c in open_claims if detector.is_dead(c.responsible)]
            if not dead:
                continue
            self._declare_dead({c.responsible for c in dead})
            places = {(s.topic, s.partition) for c in dead for s in c.sources}
            committed = committed_offsets(self._kafka, self._kafka.group_reader(INTAKE_GROUP), places)
            self._failpoint("reaper between committed offset and journal")
            if not self._read_to_end(consumer, partition, state):
                continue
            for claim in dead:
                now = state.live.get(claim.key)
                if now is not None and detector.is_dead(now.responsible):
                    self._judge_claim(state, now, committed)

    def _read_to_end(self, consumer: Consumer, partition: int, state: JournalState) -> bool:
        """Reads the journal to its present end; returns whether that is done and the partition is still ours."""
        end = readable_whole(self._kafka, self._kafka.admin(), [(_TOPIC, partition)])[_TOPIC, partition]
        deadline = time.monotonic() + ANSWER_S
        while state.next_offset < end and time.monotonic() < deadline and not self._closing.is_set():
            self._read_journal(consumer, 0.02)
        return state.next_offset >= end and self._owned.get(partition) is state

    def _judge_claim(self, state: JournalState, live: LiveClaim, committed: dict[Place, int]) -> None:
        if all(state.is_void(s, live.ownership) for s in live.sources):
            claim = self._read_claim(live)
            if claim is not None:
                self._ends.end_claim(state, live.key, claim, "void")
            else:
                state.live.pop(live.key, None)
            return
        effective = [s for s in live.sources if committed[s.topic, s.partition] > s.offset]
        claim = self._read_claim(live) if effective else None
        if claim is None:
            return  # not committed: its commit may still land, and if not, its source will be pulled again
        again = [
            t
            for t in claim.tasks
            if t.source in effective
            and t.source.offset not in live.resent
            and not state.is_void(t.source, live.ownership)
        ]
        self._failpoint("reaper before reaping")
        self._ends.send_again(state, live.key, [replay_or_outcome(t, claim, self._node) for t in again])
        live.resent.update(t.source.offset for t in again)
        self._metrics.reaped_tasks.inc(len(again))
        for task in again:
            log.info("Task %s is sent again: attempt %d was lost with node %s", task.id, task.attempt, claim.node)
        if len(effective) == len(live.sources):
            self._ends.end_claim(state, live.key, claim, "reaped")

    def _read_claim(self, live: LiveClaim) -> Claim | None:
        """The claim with its submissions, read again from the journal; None when compaction has removed it."""
        found: list[Message] = []
        partition = live.sources[0].partition
        read_ranges(self._kafka, {(_TOPIC, partition): (live.offset, live.offset + 1)}, found.append, ANSWER_S)
        record = self._kafka.record(found[0]) if found else None
        return Claim.decode(record) if record is not None and record.value is not None else None

    def _trim(self, consumer: Consumer) -> None:
        """Trims at most one partition, and only one whose claims have all been read."""
        ready = [p for p, state in self._owned.items() if state.caught_up]
        partition = self._trimmer.next_due(ready) if self._trimmer is not None else None
        if self._trimmer is None or partition is None:
            return
        state = self._owned[partition]

        def read_live_claims() -> Iterable[LiveClaim] | None:
            return state.live.values() if self._read_to_end(consumer, partition, state) else None

        self._trimmer.trim(partition, read_live_claims)

    def _forget_dead_boots(self) -> None:
        """Removes boots from `nodes` that are long dead. The owner of partition 0 does it for all reapers."""
        claimed = {c.responsible for state in self._owned.values() for c in state.live.values()}
        for boot in self._registry.dead_boots.due_for_removal(claimed):
            self._registry.dead_boots.forget_boot(boot)
            self._sender.deliver(boot_tombstone(boot))

    def _declare_silent_boots(self) -> None:
        """Boots whose lease is over. The owner of partition 0 does it for all reapers."""
        detector = self._registry.failure_detector
        self._declare_dead(boot for boot in detector.known_boots() if detector.is_dead(boot))

    def _declare_dead(self, boots: Iterable[str]) -> None:
        detector = self._registry.failure_detector
        for boot in boots:
            if not detector.is_proved_dead(boot) and detector.mark_announced(boot):
                notice = death_notice(boot, detector.last_heartbeat(boot))
                self._sender.deliver(notice.encode(), wanted=partial(detector.is_dead, boot))

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        now, assigned = time.monotonic(), {p.partition for p in partitions}
        revoked, self._revoked = self._revoked, {}
        kept = {p: state for p, (at, state) in revoked.items() if p in assigned and now - at < _KEEP_S}
        self._owned |= kept | self._checkpoints.begin(assigned - kept.keys(), self._passed_over)
        starts = {p: self._owned[p].next_offset or OFFSET_BEGINNING for p in assigned}
        consumer.assign([TopicPartition(p.topic, p.partition, starts[p.partition]) for p in partitions])
        self._generation, member = member_of(consumer)
        self._reading.begin_again()
        self._starts = {(_TOPIC, p): at for p, at in starts.items()}
        self._taking_over.begin(self._generation, self._starts)
        self._node.remember_member(REAPER_GROUP, member)

    def _on_revoke(self, _: Consumer, __: list[TopicPartition]) -> None:
        now = time.monotonic()
        self._revoked = {p: (now, state) for p, state in self._owned.items()}
        self._owned.clear()
        self._taking_over.leave()
