"""The conservation audit: received = completed + dead + running + queued, and the id of every task that breaks it.

The supervisor calls `Auditor.audit` every HEADRACE_AUDIT_S. It judges only events that are at least that old, and reads
in the order in which tasks move on (committed offsets, claims, queues, outcomes, ends). It reports a task as lost when
two audits in a row found it nowhere and a scan of the whole log found no end either. That scan is made once for each
task, and takes a small share of the time: what comes later, the projection has itself.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from uuid import UUID

from headrace.contract.records import Place
from headrace.errors import Retryable
from headrace.kafka.client import Kafka
from headrace.kafka.groups import INTAKE_GROUP, STOREKEEPER_GROUP
from headrace.process.throttled_log import log_throttled
from headrace.storage.sqlite import is_damage, trouble

from ..metrics import Metrics
from .log_reader import AuditLog, Story
from .projection import TOPICS, AuditProjection, PartialTask
from .store import Audit, AuditStore, Finding

log = logging.getLogger(__name__)

_QUEUES = ("tasks.normal", "tasks.high")
_COMPARED_MIN = 30  # minutes in which the tables are compared with the projection
_MOST_FINDINGS = 1000  # of each kind, saved for one audit; the count of lost tasks includes all
_MOST_SOURCES = 6  # named in a finding
_AUDITS_TO_REPORT = 2  # in a row that must miss a task
_MOST_SEARCHED = 100_000  # tasks in one search of the log
_PAUSE = 20  # times as long as a search took, before the next: a twentieth of the time at most


class Auditor:
    """`counted_until()` is the time, in seconds since the epoch, up to which the query has counted; None = unknown.

    Used by one thread. `on_step` is called at each step of an audit, several times a second while the log is read.
    """

    def __init__(
        self,
        kafka: Kafka,
        store: AuditStore,
        folder: Path,
        metrics: Metrics,
        every_s: float,
        counted_until: Callable[[], float | None] = lambda: None,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        """sqlite3.OperationalError while the file in `folder` cannot be used."""
        self._store, self._metrics, self._every_s = store, metrics, every_s
        self._counted_until, self._on_step = counted_until, on_step
        self._projection = AuditProjection(folder / "audit.sqlite", metrics.count_passed_over)
        self._log = AuditLog(kafka, self._step)
        self._stop = threading.Event()
        self._next_scan = 0.0  # on the monotonic clock
        metrics.follow_rebuilds(self._projection.rebuilds)

    def ask_to_stop(self) -> None:
        """Ends an audit that reads the log, with Retryable; safe from any thread."""
        self._stop.set()

    def stop(self) -> None:
        """Closes what it uses. No audit may be running."""
        self.ask_to_stop()
        self._projection.close()

    def audit(self) -> Audit:
        """Runs one audit and saves it; KafkaException or Retryable when Kafka, the disk or the database fails.

        A damaged file is made anew, and the next audit fills it.
        """
        try:
            self._projection.adopt(self._log.installation())
            return self._audit()
        except sqlite3.Error as e:
            if not is_damage(e):
                raise Retryable(f"its file: {trouble(e)}") from None
            self._projection.remake(str(e))
            raise Retryable(f"its file was damaged ({e}), and is made anew from the log") from None

    def _audit(self) -> Audit:
        committed = self._log.committed(INTAKE_GROUP, _QUEUES) | self._log.committed(STOREKEEPER_GROUP, ["results"])
        self._read_to_ends()
        now_ms = int(time.time() * 1000)
        settled_ms = now_ms - int(self._every_s * 1000)
        missing = self._find_missing(settled_ms, committed)
        unreceived = self._find_unreceived(settled_ms)
        only_started = self._projection.find_only_started()
        self._projection.count_missed(t.id for t in (*missing, *unreceived, *only_started))
        looked = self._look_up([*missing, *unreceived, *only_started], now_ms)
        findings = [_lost(t) for t in missing if t.id in looked]
        lost = len(findings)
        findings += [_unreceived(t) for t in unreceived if t.id in looked]
        del findings[_MOST_FINDINGS:]
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
        self._log.read({p: begins[p] for p in places}, self._log.ends(places), self._projection.add_records)
        self._projection.rebuilds.end()

    def _step(self) -> None:
        if self._stop.is_set():
            raise Retryable("the audit was asked to stop")
        self._on_step()

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

    def _look_up(self, partial: list[PartialTask], now_ms: int) -> set[bytes]:
        """The tasks for which the whole log has been searched in vain; those that it explains are settled.

        Searches for tasks that two audits in a row have missed. A search of long history waits before the next.
        """
        looked = self._projection.looked()
        due = {t.id: t.partition for t in partial if t.missed + 1 >= _AUDITS_TO_REPORT and t.id not in looked}
        began = time.monotonic()
        if not due or began < self._next_scan:
            return looked
        stories = self._log.story(dict(islice(due.items(), _MOST_SEARCHED)))
        self._next_scan = time.monotonic() + _PAUSE * (time.monotonic() - began)
        in_vain = {i for i, story in stories.items() if not self._settle(i, story, now_ms)}
        self._projection.mark_looked(in_vain)
        return looked | in_vain

    def _settle(self, task_id: bytes, story: Story, now_ms: int) -> bool:
        """Whether what the log holds of the task explains why the projection has only a part of it.

        It had ended and been forgotten before a copy or another attempt of it came, or its first event is trimmed.
        """
        has_ended = bool(story.events & {"completed", "dead"})
        known = self._projection.events_of(task_id)
        end = "completed" if "completed" in known else "dead"
        if not has_ended or not known:
            return not known
        if "received" not in story.events:
            trimmed = 0 < story.submitted_ms < story.first_received_ms
            if trimmed:
                self._projection.forget(task_id, end)
            return trimmed
        if known & {"completed", "dead"}:
            self._projection.replace_by_repeat(task_id, end, now_ms)
        elif "received" in known:
            self._projection.replace_by_repeat(task_id, "received", now_ms, story.sources)
        elif len(story.sources) > 1:
            self._projection.replace_by_repeat(task_id, "started", now_ms, story.sources)
        else:
            self._projection.forget(task_id)
        return True

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


def _lost(task: PartialTask) -> Finding:
    detail = "received, and since then in no queue, claim, outcome, completion or dead letter"
    return Finding(str(UUID(bytes=task.id)), "lost", "completed", detail)


def _unreceived(task: PartialTask) -> Finding:
    return Finding(str(UUID(bytes=task.id)), "unreceived", "received", "ended without a lifecycle.received record")


def _copies_note(task_id: bytes, sources: Sequence[str]) -> Finding:
    """Says that several records of the task topics have this id."""
    told = ", ".join(sources[:_MOST_SOURCES]) + (", …" if len(sources) > _MOST_SOURCES else "")
    detail = f"submitted {len(sources)} times ({told}); the first outcome counts, so the task has one end"
    return Finding(str(UUID(bytes=task_id)), "resubmitted", "received", detail)
