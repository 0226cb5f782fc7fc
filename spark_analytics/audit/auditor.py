"""The conservation audit: received = completed + dead + running + queued, and the id of every task that breaks it.

A thread of the statistics' process runs `Auditor.audit` every HEADRACE_AUDIT_S. It judges only events that are at least
that old, and reads in the order in which tasks move on (committed offsets, claims, queues, outcomes, ends). It reports
a task as lost when two audits in a row found it nowhere and a scan of the whole log found no end either.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from uuid import UUID

from confluent_kafka import KafkaException

from headrace.contract.records import Place, Record
from headrace.errors import Retryable
from headrace.kafka.client import Kafka
from headrace.kafka.groups import INTAKE_GROUP, STOREKEEPER_GROUP
from headrace.process.throttled_log import log_throttled

from ..metrics import Metrics
from .log_reader import AuditLog
from .projection import TOPICS, AuditProjection, PartialTask
from .store import Audit, AuditStore, Finding

log = logging.getLogger(__name__)

_QUEUES = ("tasks.normal", "tasks.high")
_COMPARED_MIN = 30  # minutes in which the tables are compared with the projection
_MOST_FINDINGS = 1000  # of each kind, saved for one audit; the count of lost tasks includes all
_MOST_SOURCES = 6  # named in a finding
_AUDITS_TO_REPORT = 2  # in a row that must miss a task


class Auditor:
    """`counted_until()` is the time, in seconds since the epoch, up to which the query has counted; None = unknown.

    Started and stopped by `main`; only its own thread, or a test, calls `audit`.
    """

    def __init__(
        self,
        kafka: Kafka,
        store: AuditStore,
        folder: Path,
        metrics: Metrics,
        every_s: float,
        counted_until: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._store, self._metrics, self._every_s = store, metrics, every_s
        self._counted_until = counted_until
        self._projection = AuditProjection(folder / "audit.sqlite")
        self._log = AuditLog(kafka)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(15)
            if self._thread.is_alive():
                return  # it waits for Kafka, and ends with the process
        self._log.close()
        self._projection.close()

    def audit(self) -> Audit:
        """Runs one audit and saves it; KafkaException or Retryable when Kafka or the database does not answer."""
        committed = self._log.committed(INTAKE_GROUP, _QUEUES) | self._log.committed(STOREKEEPER_GROUP, ["results"])
        self._read_to_ends()
        now_ms = int(time.time() * 1000)
        settled_ms = now_ms - int(self._every_s * 1000)
        missing = self._find_missing(settled_ms, committed)
        unreceived = self._find_unreceived(settled_ms)
        only_started = self._projection.find_only_started()
        self._projection.count_missed(t.id for t in (*missing, *unreceived, *only_started))
        findings = [*self._report_lost(missing, now_ms), *self._report_unreceived(unreceived, now_ms)]
        lost = sum(f.verdict == "lost" for f in findings)
        del findings[_MOST_FINDINGS:]
        self._settle_only_started(only_started, now_ms)
        repeats = self._projection.unreported_repeats()[:_MOST_FINDINGS]  # the next audit reports the rest
        findings += [
            Finding(str(UUID(bytes=i)), "repeated", event, f"lifecycle event {event} came more than once")
            for i, event, _ in repeats
        ]
        copies = dict(islice(self._projection.copies.unreported().items(), _MOST_FINDINGS))
        findings += [_copies_note(task_id, sources) for task_id, sources in copies.items()]
        totals = self._projection.totals()
        audit = Audit(
            at_ms=now_ms,
            settled_ms=settled_ms,
            received=totals["received"],
            completed=totals["completed"],
            dead=totals["dead"],
            running=totals["running"],
            queued=totals["open"] - totals["running"] - lost,
            tables_agree=self._compare_tables(settled_ms),
            lost=lost,
            findings=findings,
        )
        self._store.save(audit)
        self._projection.mark_reported(repeats)
        self._projection.copies.mark_reported(copies)
        self._projection.forget_closed(now_ms)
        self._publish(audit, lost, len(repeats))
        return audit

    def _read_to_ends(self) -> None:
        """Reads on to the present ends of the topics."""
        places = self._log.places(TOPICS)
        first, known = self._log.starts(places), self._projection.next_offsets()
        if gone := [p for p in places if known.get(p, first[p]) < first[p]]:
            raise Retryable(
                f"Kafka no longer holds {gone[0][0]}, partition {gone[0][1]}, from offset {known[gone[0]]} on, where "
                "the audit goes on: remove audit.sqlite in this role's data directory, and it begins with what there is"
            )
        begins = first | known
        self._log.read({p: begins[p] for p in places}, self._log.ends(places), self._add_records)

    def _add_records(self, records: list[Record]) -> None:
        if self._stop.is_set():
            raise Retryable("the audit was asked to stop")
        self._projection.add_records(records)

    def _find_missing(self, settled_ms: int, committed: dict[Place, int]) -> list[PartialTask]:
        """Received, not ended, and in no claim, queue or outcome. A task that moves meanwhile is found further on."""
        ends = self._log.ends(list(committed))
        waiting = {p: (n, ends[p]) for p, n in committed.items()}
        missing = self._projection.find_missing(settled_ms, waiting)
        if not missing:
            return []
        hidden = self._log.hidden_partitions((*TOPICS, *_QUEUES, "results"))
        alive = self._log.tail_ids("tasks.high", committed) | self._log.tail_ids("results", committed)
        self._read_to_ends()
        still_missing = self._projection.find_missing(settled_ms, waiting)
        return [t for t in still_missing if t.id not in alive and t.partition not in hidden]

    def _find_unreceived(self, settled_ms: int) -> list[PartialTask]:
        found = self._projection.find_unreceived(settled_ms)
        hidden = self._log.hidden_partitions(("lifecycle.received",)) if found else set()
        return [t for t in found if t.partition not in hidden]

    def _report_lost(self, missing: list[PartialTask], now_ms: int) -> list[Finding]:
        suspects = {t.id: t.partition for t in missing if t.missed + 1 >= _AUDITS_TO_REPORT}
        found = []
        for task_id, story in self._log.story(suspects).items() if suspects else ():
            if story.events & {"completed", "dead"}:  # it had ended and been forgotten before `received` came again
                self._projection.replace_by_repeat(task_id, "received", now_ms, story.sources)
            else:
                detail = "received, and since then in no queue, claim, outcome, completion or dead letter"
                found.append(Finding(str(UUID(bytes=task_id)), "lost", "completed", detail))
        return found

    def _report_unreceived(self, ended: list[PartialTask], now_ms: int) -> list[Finding]:
        suspects = {t.id: t.partition for t in ended if t.missed + 1 >= _AUDITS_TO_REPORT}
        found = []
        for task_id, story in self._log.story(suspects).items() if suspects else ():
            if "received" in story.events:
                event = "completed" if "completed" in story.events else "dead"
                self._projection.replace_by_repeat(task_id, event, now_ms)
            else:
                detail = "ended without a lifecycle.received record"
                found.append(Finding(str(UUID(bytes=task_id)), "unreceived", "received", detail))
        return found

    def _settle_only_started(self, started: list[PartialTask], now_ms: int) -> None:
        """Drops tasks that had ended and been forgotten before another attempt, or another copy of them, started."""
        suspects = {t.id: t.partition for t in started if t.missed + 1 >= _AUDITS_TO_REPORT}
        for task_id, story in self._log.story(suspects).items() if suspects else ():
            if not story.events & {"completed", "dead"}:
                continue
            if len(story.sources) > 1:
                self._projection.replace_by_repeat(task_id, "started", now_ms, story.sources)
            else:
                self._projection.forget(task_id)

    def _compare_tables(self, settled_ms: int) -> bool | None:
        """Whether Spark's tables and the projection agree on the last settled minutes; None = unknown."""
        until = self._counted_until()
        if until is None:
            return None
        last = min(settled_ms, int(until * 1000)) // 60_000
        ours = self._projection.counts_by_minute(last - _COMPARED_MIN, last)
        theirs = self._store.counts_by_minute(last - _COMPARED_MIN, last)
        if ours == theirs:
            return True
        minute, event = min(set(ours.items()) ^ set(theirs.items()))[0]
        log.warning(
            "the tables and the log disagree: %s in minute %d: %d counted, %d in the log",
            event,
            minute,
            theirs.get((minute, event), 0),
            ours.get((minute, event), 0),
        )
        return False

    def _publish(self, audit: Audit, lost: int, repeated: int) -> None:
        self._metrics.lost.set(lost)
        self._metrics.repeated.inc(repeated)
        self._metrics.resubmitted.inc(sum(f.verdict == "resubmitted" for f in audit.findings))
        self._metrics.audited.set(audit.at_ms / 1000)
        for finding in audit.findings:
            if finding.verdict == "resubmitted":
                log.info("Audit: task %s was %s", finding.id, finding.detail)
                continue
            log_throttled(
                f"audit {finding.verdict}", "Audit: task %s is %s (%s)", finding.id, finding.verdict, finding.detail
            )

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self.audit()
            except (KafkaException, Retryable, TimeoutError) as e:
                log_throttled("audit", "The audit was skipped: %s", e)


def _copies_note(task_id: bytes, sources: Sequence[str]) -> Finding:
    """Says that several records of the task topics have this id."""
    told = ", ".join(sources[:_MOST_SOURCES]) + (", …" if len(sources) > _MOST_SOURCES else "")
    detail = f"submitted {len(sources)} times ({told}); the first outcome counts, so the task has one end"
    return Finding(str(UUID(bytes=task_id)), "resubmitted", "received", detail)
