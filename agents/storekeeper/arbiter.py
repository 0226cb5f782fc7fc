"""The arbiter of terminal states: the first outcome of an id in its `results` partition decides, and no other.

The storekeeper's agent calls `handle_batch` with records in their order, from one thread. By the protocol, step 7
(docs/protocol.md), the result's file is durable before the event is sent, and the event is acknowledged before it is
indexed. Offsets may be committed only after `handle_batch` has returned. When Kafka, the disk or the results root is
away, the step is retried; `Stopped` when the role ends meanwhile.
"""

import contextlib
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from headrace.contract.bounds import MAX_TEXT_BYTES
from headrace.contract.ledger import Failure
from headrace.contract.outcome import Outcome
from headrace.contract.records import Outgoing, Record, shrink_to_fit
from headrace.contract.states import Cause, Reason
from headrace.errors import Retryable, Undecodable
from headrace.kafka.client import Kafka
from headrace.kafka.reading import read_record
from headrace.kafka.sender import Sender, Sent
from headrace.process.failpoints import Failpoint, no_failpoint
from headrace.process.throttled_log import log_throttled

from .metrics import Metrics
from .partial_files import PartialFile
from .partition_check import PartitionCheck
from .result_assembly import ChunkSets, Incomplete
from .result_store import Blocked, ResultStore, StoredResult
from .retry_until import RetryUntilStopped, Stopped
from .terminal_index import IndexEntry, TerminalIndex

_CHECK_STOP_S = 0.5  # how often a wait for Kafka checks whether the role ends
_SLOW_S = 3.0  # a wait for Kafka longer than this is reported on `/readyz`


@dataclass(slots=True)
class TerminalDecision:
    """The first outcome of an id, and how far its terminal event has come."""

    outcome: Outcome
    part: PartialFile | None = None  # the whole result, on disk but not yet in its directory
    stored: StoredResult | None = None
    event_position: tuple[str, int, int] | None = None  # topic, partition and offset, once Kafka has the event

    @property
    def needs_file(self) -> bool:
        return self.outcome.outcome == "completed" and self.stored is None

    @property
    def event(self) -> Outgoing:
        """The terminal event."""
        if self.stored is None:
            return shrink_to_fit(self.outcome.dead_letter())
        return shrink_to_fit(self.outcome.completed_event(self.stored.file, self.stored.size, self.stored.sha256))


class Arbiter:
    """Judges batches of outcomes, in one thread."""

    def __init__(
        self,
        kafka: Kafka,
        store: ResultStore,
        index: TerminalIndex,
        metrics: Metrics,
        retry: RetryUntilStopped,
        *,
        failpoint: Failpoint = no_failpoint,
    ) -> None:
        """`failpoint` is called with the name of each step done (file, event, index), for fault tests."""
        self._kafka, self._store, self._index, self._metrics = kafka, store, index, metrics
        self._retry, self._failpoint = retry, failpoint
        self._partition_check = PartitionCheck(kafka)
        self._sender: Sender | None = None
        self.chunk_sets = ChunkSets(store.new_part, store.drop_part)

    def close(self) -> None:
        if self._sender is not None:
            self._sender.close(1.0)  # only events of a batch that was given up can still be waiting

    def serve_idle(self) -> None:
        """To be called every second or so while no batch is handled.

        Polls the sender's delivery reports and errors, and lets the index take merged files into use.
        """
        with contextlib.suppress(OSError, sqlite3.OperationalError):  # then the next batch does it, or says why not
            self._index.use_merged()
        if self._sender is not None:
            self._sender.serve(0)

    def handle_batch(self, batch: Sequence[Record]) -> None:
        """Stores results, sends terminal events and indexes them, for every outcome in the batch that decides."""
        with self._metrics.batch_seconds.time():
            if batch:
                self._metrics.observe_reach(batch[-1])  # the record that has waited least
            decisions = self._decide(batch)
            self._metrics.open_chunk_sets.set(len(self.chunk_sets))
            if not decisions:
                return
            with self._metrics.time_stage("file"):
                self._store_results(decisions)
            self._failpoint("file")
            with self._metrics.time_stage("event"):
                entries = self._send_events(decisions)
            self._failpoint("event")
            with self._metrics.time_stage("index"):
                self._retry.until_done("index", lambda: self._index.add_entries(entries))
            for decision in decisions:
                self.chunk_sets.drop_task(decision.outcome.id)
                self._metrics.count_terminal_event(decision.outcome, decision.stored.size if decision.stored else 0)
            self._failpoint("index")

    def _decide(self, batch: Sequence[Record]) -> list[TerminalDecision]:
        """The outcomes of the batch that are the first of their id; later ones and unfinished chunks decide nothing."""
        outcomes = [(record, outcome) for record in batch if (outcome := self._decode(record)) is not None]
        asked = {outcome.id: outcome.partition for _, outcome in outcomes}
        terminal = self._retry.until_done("index", lambda: self._index.find_terminal(asked))
        decisions = []
        for record, outcome in outcomes:
            if outcome.id in terminal:
                self._metrics.passed_over.inc()
                self.chunk_sets.drop_task(outcome.id)
                continue
            decision = self._decide_outcome(outcome, record.timestamp_ms)
            if decision is not None:
                terminal.add(outcome.id)
                decisions.append(decision)
            if self.chunk_sets.drop_abandoned(record.partition, record.timestamp_ms):
                log_throttled("abandoned", "a result in chunks was never finished and has been dropped")
        return decisions

    def _decode(self, record: Record) -> Outcome | None:
        try:
            outcome = Outcome.decode(record)
            belongs_in = self._partition_check.belongs_in
            if not self._retry.until_done("Kafka", lambda: belongs_in(outcome.id, record.partition)):
                raise Undecodable("an outcome must be in its task id's partition", record.value)
            return outcome
        except Undecodable as e:
            self._metrics.undecodable.inc()
            log_throttled("undecodable outcome", "%s passed over: %s", record.source, e)
            return None

    def _decide_outcome(self, outcome: Outcome, at_ms: int) -> TerminalDecision | None:
        """None for a chunk of a result that is not whole yet."""
        if outcome.outcome != "completed" or outcome.chunks == 1:
            return TerminalDecision(outcome)
        try:
            part = self._retry.until_done("results root", partial(self._add_chunk, outcome, at_ms))
        except Incomplete:
            why = "the result arrived incomplete: some of its chunks are missing from the log"
            return TerminalDecision(self._as_failed(outcome, why))
        return None if part is None else TerminalDecision(outcome, part)

    def _add_chunk(self, chunk: Outcome, at_ms: int) -> PartialFile | None:
        self._check_root()  # in a folder that was removed no retry would ever succeed
        return self.chunk_sets.add_chunk(chunk, at_ms)

    def _store_results(self, decisions: Sequence[TerminalDecision]) -> None:
        """Stores every result durably in its directory. A result that can never be stored becomes a failure."""
        todo = [d for d in decisions if d.needs_file]
        if not todo:
            return
        until_done = partial(self._retry.until_done, "results root")
        until_done(self._check_root)
        until_done(partial(self._write_parts, todo))
        until_done(lambda: self._store.sync_parts([d.part for d in todo if d.part is not None]))
        by_directory: dict[str, list[TerminalDecision]] = {}
        for decision in todo:
            by_directory.setdefault(decision.outcome.directory, []).append(decision)
        for directory, some in by_directory.items():
            until_done(partial(self._move_into, directory, some))

    def _check_root(self) -> None:
        if reason := self._store.check():
            raise Retryable(reason)

    def _write_parts(self, decisions: Sequence[TerminalDecision]) -> None:
        for decision in decisions:
            if decision.part is None:
                decision.part = self._store.write_part(decision.outcome.value)

    def _move_into(self, directory: str, decisions: Sequence[TerminalDecision]) -> None:
        self._check_root()
        results = [(d.part, d.outcome.id, d.outcome.suffix) for d in decisions if d.part is not None]
        answers: Sequence[StoredResult | Blocked]
        try:
            answers = self._store.move_into(directory, results)
        except Blocked as e:
            answers = [e] * len(results)
        for decision, answer in zip(decisions, answers, strict=True):
            if isinstance(answer, StoredResult):
                decision.stored = answer
            elif decision.part is not None:
                self._store.drop_part(decision.part)
                decision.outcome = self._as_failed(decision.outcome, str(answer))

    def _send_events(self, decisions: Sequence[TerminalDecision]) -> list[IndexEntry]:
        """Sends the terminal events until Kafka has acknowledged all; returns their index entries."""
        self._retry.until_done("Kafka", lambda: self._try_to_send([d for d in decisions if d.event_position is None]))
        return [(d.outcome.id, *d.event_position) for d in decisions if d.event_position is not None]

    def _try_to_send(self, decisions: Sequence[TerminalDecision]) -> None:
        """Retryable when Kafka has not taken all; the next try then uses a new sender."""
        sender = self._sender = self._sender or Sender(self._kafka, own_thread=False)
        sent = [(decision, sender.send(decision.event)) for decision in decisions]
        errors = []
        for decision, future in sent:
            self._wait(sender, future)
            try:
                decision.event_position = future.result(0)
            except Retryable as e:
                errors.append(e)
        if errors:
            self._sender = None
            sender.close(0.1)
            raise errors[0]

    def _wait(self, sender: Sender, future: Sent) -> None:
        began = time.monotonic()
        while not future.done():
            sender.serve(_CHECK_STOP_S)
            waited_s = time.monotonic() - began
            if waited_s >= _SLOW_S:
                self._retry.trouble = f"Kafka: has not acknowledged a terminal event for {waited_s:.0f} s"
            if self._retry.stopped and waited_s >= _CHECK_STOP_S:
                raise Stopped

    def _as_failed(self, outcome: Outcome, why: str) -> Outcome:
        """The outcome as a failure because its result cannot be stored. Its value is the submission, for redrives."""
        end = Failure(
            outcome.attempt,
            Cause.ERROR,
            node=outcome.node,
            started_ms=outcome.started_ms,
            ended_ms=outcome.ended_ms,
            detail=why,
        )
        return replace(
            outcome,
            outcome="failed",
            reason=Reason.FAILED,
            error=why[:MAX_TEXT_BYTES],
            ledger=(*outcome.ledger, end),
            value=self._retry.until_done("Kafka", lambda: self._read_submission(outcome)),
        )

    def _read_submission(self, outcome: Outcome) -> bytes:
        """Empty when the log no longer holds it."""
        source = outcome.source
        record = read_record(self._kafka, source) if source.topic in ("tasks.normal", "tasks.high") else None
        return record.value or b"" if record is not None else b""
