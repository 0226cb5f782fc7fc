"""The arbiter of terminal states: the first outcome of an id in its `results` partition decides, and no other.

The storekeeper hands it batches of records in their order, from one thread. PROTOCOL step 7: file durable, then the
event acknowledged, then the index; only then does `handle` return, and only then may offsets be committed. Whatever is
away (Kafka, the disk, the results root) is waited for; `Stopped` when the role ends meanwhile.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial

from agents.storekeeper.metrics import Metrics
from agents.storekeeper.partial_files import PartialFile
from agents.storekeeper.partition_check import PartitionCheck
from agents.storekeeper.result_assembly import ChunkSets, Incomplete
from agents.storekeeper.result_store import Blocked, ResultStore, Stored
from agents.storekeeper.retry_until import RetryUntilStopped, Stopped
from agents.storekeeper.terminal_index import TerminalIndex, Written
from headrace.contract.ledger import Failure
from headrace.contract.outcome import Outcome
from headrace.contract.records import Outgoing, Record, shrink_to_fit
from headrace.contract.states import Cause, Reason
from headrace.errors import Retryable, Undecodable
from headrace.kafka.client import Kafka, Sender, log_throttled
from headrace.kafka.reading import read_record
from headrace.process.failpoints import Failpoint, no_failpoint

_LOOK_UP_S, _SLOW_S = 0.5, 3.0  # while Kafka is waited for: whether the role ends; from when on it is worth a word


@dataclass(slots=True)
class Ending:
    """The first outcome of an id, on its way to its terminal event."""

    outcome: Outcome
    part: PartialFile | None = None  # the whole result, on disk but not yet in its place
    stored: Stored | None = None
    place: tuple[str, int, int] | None = None  # topic, partition and offset of the terminal event

    @property
    def unstored(self) -> bool:
        return self.outcome.outcome == "completed" and self.stored is None

    @property
    def event(self) -> Outgoing:
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
        patience: RetryUntilStopped,
        failpoint: Failpoint = no_failpoint,
    ) -> None:
        """`at` is called with the name of each step done (file, event, index): fault tests end the process there."""
        self._kafka, self._store, self._index, self._metrics = kafka, store, index, metrics
        self._patience, self._failpoint = patience, failpoint
        self._homes = PartitionCheck(kafka)
        self._sender: Sender | None = None
        self.chunk_sets = ChunkSets(store.begin, store.drop)

    def close(self) -> None:
        if self._sender is not None:
            self._sender.close(1.0)  # only what was not waited for can be left

    def tend(self) -> None:
        """To be called now and then while there is nothing to do: takes in what the sender's client has to say."""
        if self._sender is not None:
            self._sender.serve(0)

    def handle(self, batch: Sequence[Record]) -> None:
        """Brings every record of the batch to its end; Stopped when that was interrupted."""
        with self._metrics.batch_seconds.time():
            if batch:
                self._metrics.reached(batch[-1])  # the one that has waited least
            endings = self._decide(batch)
            self._metrics.open_chunk_sets.set(len(self.chunk_sets))
            if not endings:
                return
            with self._metrics.stage("file"):
                self._store_results(endings)
            self._failpoint("file")
            with self._metrics.stage("event"):
                written = self._announce(endings)
            self._failpoint("event")
            with self._metrics.stage("index"):
                self._patience.do("index", lambda: self._index.add(written))
            for ending in endings:
                self.chunk_sets.forget(ending.outcome.id)
                self._metrics.ended(ending.outcome, ending.stored.size if ending.stored else 0)
            self._failpoint("index")

    def _decide(self, batch: Sequence[Record]) -> list[Ending]:
        outcomes = [(record, outcome) for record in batch if (outcome := self._decode(record)) is not None]
        terminal = self._patience.do("index", lambda: self._index.known(o.id for _, o in outcomes))
        endings = []
        for record, outcome in outcomes:
            if outcome.id in terminal:
                self._metrics.passed_over.inc()
                self.chunk_sets.forget(outcome.id)
                continue
            ending = self._ending(outcome, record.timestamp_ms)
            if ending is not None:
                terminal.add(outcome.id)
                endings.append(ending)
            if self.chunk_sets.forget_abandoned(record.partition, record.timestamp_ms):
                log_throttled("abandoned", "a result in chunks was never finished and has been dropped")
        return endings

    def _decode(self, record: Record) -> Outcome | None:
        try:
            outcome = Outcome.decode(record)
            if not self._patience.do("Kafka", lambda: self._homes.is_home(outcome.id, record.partition)):
                raise Undecodable("an outcome lies in its task id's partition", record.value)
            return outcome
        except Undecodable as e:
            self._metrics.undecodable.inc()
            log_throttled("undecodable outcome", "%s passed over: %s", record.source, e)
            return None

    def _ending(self, outcome: Outcome, at_ms: int) -> Ending | None:
        if outcome.outcome != "completed" or outcome.chunks == 1:
            return Ending(outcome)
        try:
            part = self._patience.do("results root", partial(self._add_chunk, outcome, at_ms))
        except Incomplete:
            why = "the result arrived incomplete: some of its chunks are missing in the log"
            return Ending(self._failed(outcome, why))
        return None if part is None else Ending(outcome, part)

    def _add_chunk(self, chunk: Outcome, at_ms: int) -> PartialFile | None:
        self._check_root()  # in a folder that was removed nothing can be begun or added, however long one waits
        return self.chunk_sets.add(chunk, at_ms)

    def _store_results(self, endings: Sequence[Ending]) -> None:
        """Puts every result into its place, durably; what can never be stored becomes a failure."""
        todo = [e for e in endings if e.unstored]
        if not todo:
            return
        self._patience.do("results root", self._check_root)
        self._patience.do("results root", partial(self._write, todo))
        self._patience.do("results root", lambda: self._store.sync([e.part for e in todo if e.part is not None]))
        by_directory: dict[str, list[Ending]] = {}
        for ending in todo:
            by_directory.setdefault(ending.outcome.directory, []).append(ending)
        for directory, some in by_directory.items():
            self._patience.do("results root", partial(self._place, directory, some))

    def _check_root(self) -> None:
        if reason := self._store.check():
            raise Retryable(reason)

    def _write(self, endings: Sequence[Ending]) -> None:
        for ending in endings:
            if ending.part is None:
                ending.part = self._store.write(ending.outcome.value)

    def _place(self, directory: str, endings: Sequence[Ending]) -> None:
        self._check_root()
        wanted = [(e.part, e.outcome.id, e.outcome.suffix) for e in endings if e.part is not None]
        answers: Sequence[Stored | Blocked]
        try:
            answers = self._store.place(directory, wanted)
        except Blocked as e:
            answers = [e] * len(wanted)
        for ending, answer in zip(endings, answers, strict=True):
            if isinstance(answer, Stored):
                ending.stored = answer
            elif ending.part is not None:
                self._store.drop(ending.part)
                ending.outcome = self._failed(ending.outcome, str(answer))

    def _announce(self, endings: Sequence[Ending]) -> list[Written]:
        self._patience.do("Kafka", lambda: self._send([e for e in endings if e.place is None]))
        return [(e.outcome.id, *e.place) for e in endings if e.place is not None]

    def _send(self, endings: Sequence[Ending]) -> None:
        """Sends terminal events and waits for all; Retryable when some were not taken, with a new sender next time."""
        sender = self._sender = self._sender or Sender(self._kafka, own_thread=False)
        futures = [(ending, sender.send(ending.event)) for ending in endings]
        errors = []
        for ending, future in futures:
            self._wait(sender, future)
            try:
                ending.place = future.result(0)
            except Retryable as e:
                errors.append(e)
        if errors:
            self._sender = None
            sender.close(0.1)
            raise errors[0]

    def _wait(self, sender: Sender, future: Future[tuple[str, int, int]]) -> None:
        began = time.monotonic()
        while not future.done():
            sender.serve(_LOOK_UP_S)
            waited_s = time.monotonic() - began
            if waited_s >= _SLOW_S:
                self._patience.trouble = f"Kafka: has not acknowledged a terminal event for {waited_s:.0f} s"
            if self._patience.stopped and waited_s >= _LOOK_UP_S:
                raise Stopped

    def _failed(self, outcome: Outcome, why: str) -> Outcome:
        """The outcome as a failure: its result cannot be kept. The dead letter holds the submission, as all do."""
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
            error=why,
            ledger=(*outcome.ledger, end),
            value=self._patience.do("Kafka", lambda: self._submission(outcome)),
        )

    def _submission(self, outcome: Outcome) -> bytes:
        source = outcome.source
        record = read_record(self._kafka, source) if source.topic in ("tasks.normal", "tasks.high") else None
        return record.value or b"" if record is not None else b""
