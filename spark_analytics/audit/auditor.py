"""The conservation audit: received = completed + dead + running + queued, and every task that breaks it, by its id.

A thread of the statistics' process runs `Auditor.audit` every HEADRACE_AUDIT_S. It judges only what is at least that
old, reads in the order in which tasks move on (committed offsets, claims, queues, outcomes, ends), and names a task
lost when two audits in a row have found it nowhere and a scan of the whole log has found no end either.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from confluent_kafka import KafkaException

from headrace.contract.records import Place, Record
from headrace.errors import Retryable
from headrace.kafka.client import Kafka, log_throttled
from headrace.kafka.groups import INTAKE_GROUP, STOREKEEPER_GROUP
from spark_analytics.audit.log_reader import AuditLog
from spark_analytics.audit.projection import TOPICS, Fold, Half
from spark_analytics.audit.store import Audit, AuditStore, Finding
from spark_analytics.metrics import Metrics

log = logging.getLogger(__name__)

_QUEUES = ("tasks.normal", "tasks.high")
_COMPARED_MIN = 30  # minutes in which the tables are held against the fold
_MOST_NAMED = 1000  # of one audit; the counts are whole
_TWICE = 2


class Auditor:
    """`counted_until()` is the time, in seconds since the epoch, up to which the query has counted; None = unknown."""

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
        self._fold = Fold(folder / "audit.sqlite")
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
        self._fold.close()

    def audit(self) -> Audit:
        """One audit, saved; KafkaException or Retryable when Kafka or the database does not answer."""
        committed = self._log.committed(INTAKE_GROUP, _QUEUES) | self._log.committed(STOREKEEPER_GROUP, ["results"])
        self._read_on()
        now_ms = int(time.time() * 1000)
        settled = now_ms - int(self._every_s * 1000)
        missing = self._missing(settled, committed)
        unreceived = self._fold.unreceived(settled)
        self._fold.mark_missed(h.id for h in (*missing, *unreceived))
        named = [*self._lost(missing, now_ms), *self._unreceived(unreceived, now_ms)]
        repeats = self._fold.repeats()
        named += [
            Finding(str(UUID(bytes=i)), "repeated", event, f"lifecycle event {event} came more than once")
            for i, event, _ in repeats
        ]
        totals = self._fold.totals()
        lost = sum(f.verdict == "lost" for f in named)
        audit = Audit(
            now_ms,
            settled,
            totals["received"],
            totals["completed"],
            totals["dead"],
            totals["running"],
            totals["open"] - totals["running"] - lost,
            self._agree(settled),
            named[:_MOST_NAMED],
        )
        self._store.save(audit)
        self._fold.told(repeats)
        self._fold.forget_closed(now_ms)
        self._tell(audit, lost, len(repeats))
        return audit

    def _read_on(self) -> None:
        """Folds to the ends that the topics have now."""
        places = self._log.places(TOPICS)
        begins = self._log.starts(places) | self._fold.next_offsets()
        self._log.read({p: begins[p] for p in places}, self._log.ends(places), self._add)

    def _add(self, records: list[Record]) -> None:
        if self._stop.is_set():
            raise Retryable("the audit is told to stop")
        self._fold.add(records)

    def _missing(self, settled: int, committed: dict[Place, int]) -> list[Half]:
        """Received, not ended, and in no claim, queue or outcome. What has moved on meanwhile is found further on."""
        ends = self._log.ends(list(committed))
        waiting = {p: (n, ends[p]) for p, n in committed.items()}
        missing = self._fold.missing(settled, waiting)
        if not missing:
            return []
        alive = self._log.tail_ids("tasks.high", committed) | self._log.tail_ids("results", committed)
        self._read_on()
        return [h for h in self._fold.missing(settled, waiting) if h.id not in alive]

    def _lost(self, missing: list[Half], now_ms: int) -> list[Finding]:
        suspects = {h.id: h.partition for h in missing if h.missed + 1 >= _TWICE}
        found = []
        for task_id, events in self._log.story(suspects).items() if suspects else ():
            if events["completed"] or events["dead"]:  # it had ended, and been forgotten, when `received` came again
                self._fold.drop(task_id, "received", now_ms)
            else:
                detail = "received, and since then in no queue, claim, outcome, completion or dead letter"
                found.append(Finding(str(UUID(bytes=task_id)), "lost", "completed", detail))
        return found

    def _unreceived(self, halves: list[Half], now_ms: int) -> list[Finding]:
        suspects = {h.id: h.partition for h in halves if h.missed + 1 >= _TWICE}
        found = []
        for task_id, events in self._log.story(suspects).items() if suspects else ():
            if events["received"]:
                self._fold.drop(task_id, "completed" if events["completed"] else "dead", now_ms)
            else:
                detail = "ended, and no lifecycle.received tells of it"
                found.append(Finding(str(UUID(bytes=task_id)), "unreceived", "received", detail))
        return found

    def _agree(self, settled: int) -> bool | None:
        """Whether Spark's tables and the fold say the same of the last settled minutes."""
        until = self._counted_until()
        if until is None:
            return None
        last = min(settled, int(until * 1000)) // 60_000
        ours = self._fold.minutes(last - _COMPARED_MIN, last)
        theirs = self._store.minutes(last - _COMPARED_MIN, last)
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

    def _tell(self, audit: Audit, lost: int, repeated: int) -> None:
        self._metrics.lost.set(lost)
        self._metrics.repeated.inc(repeated)
        self._metrics.audited.set(audit.at / 1000)
        for finding in audit.findings:
            log_throttled(
                f"audit {finding.verdict}",
                "The audit names task %s: %s (%s)",
                finding.id,
                finding.verdict,
                finding.detail,
            )

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self.audit()
            except (KafkaException, Retryable, TimeoutError) as e:
                log_throttled("audit", "No audit now: %s", e)
