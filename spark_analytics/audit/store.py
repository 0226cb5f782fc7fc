"""The audit's results in the statistics' database, and the counts there that it compares with.

Retryable while the database is away.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, Protocol

from headrace.storage.mysql import Database

from ..sinks.mysql import connection, retryable

FindingKind = Literal["lost", "repeated", "unreceived", "resubmitted"]
_LASTING = ("repeated", "resubmitted")  # what later audits do not resolve
_KEPT = "INTERVAL 30 DAY"


@dataclass(frozen=True, slots=True)
class Finding:
    """One task at fault: lost, repeated or never received. `event` is the event that is missing or repeated.

    `resubmitted` is no fault: several records have the task's id, and the first outcome has decided.
    """

    id: str
    verdict: FindingKind
    event: str
    detail: str


@dataclass(frozen=True, slots=True)
class Audit:
    """One audit: distinct counts at `at_ms`; findings about tasks older than `settled_ms` (both ms since the epoch)."""

    at_ms: int
    settled_ms: int
    received: int
    completed: int
    dead: int
    running: int
    queued: int
    tables_agree: bool | None  # None: not known at this time
    lost: int  # all of them, of which the first are in `findings`
    findings: Sequence[Finding] = field(default=())


class AuditStore(Protocol):
    """Where audits are saved."""

    def save(self, audit: Audit) -> None:
        """Saves an audit and its findings. Earlier findings that it lacks are resolved, except repeats and copies.

        Idempotent.
        """

    def counts_by_minute(self, first: int, last: int) -> dict[tuple[int, str], int]:
        """Spark's counts: (minute since the epoch, event) -> count, from minute `first` on, before `last`."""


class MySqlAuditStore:
    """Saves to the tables `audits` and `audit_findings`, and forgets after 30 days.

    The column `repeated` counts the tasks with an open finding, this audit's or an earlier one's: what the list of
    findings shows.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, audit: Audit) -> None:
        at = _time(audit.at_ms)
        passing = [f for f in audit.findings if f.verdict not in _LASTING]
        with retryable(), connection(self._database) as c, c.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO audit_findings (id, verdict, event, found_at, detail) VALUES (%s, %s, %s, %s, %s) "
                "ON DUPLICATE KEY UPDATE resolved_at = NULL, detail = VALUES(detail)",
                [(f.id, f.verdict, f.event, at, f.detail[:500]) for f in audit.findings],
            )
            cursor.execute(
                "SELECT id, verdict, event FROM audit_findings WHERE verdict NOT IN %s AND resolved_at IS NULL",
                [_LASTING],
            )
            gone = set(cursor.fetchall()) - {(f.id, f.verdict, f.event) for f in passing}
            cursor.executemany(
                "UPDATE audit_findings SET resolved_at = %s WHERE id = %s AND verdict = %s AND event = %s",
                [(at, *key) for key in gone],
            )
            cursor.execute(f"DELETE FROM audits WHERE at < UTC_TIMESTAMP() - {_KEPT}")  # noqa: S608 - a constant
            cursor.execute(
                f"DELETE FROM audit_findings WHERE found_at < UTC_TIMESTAMP() - {_KEPT} "  # noqa: S608
                "AND (resolved_at IS NOT NULL OR verdict IN %s)",
                [_LASTING],
            )
            cursor.execute(
                "REPLACE INTO audits SELECT %s, %s, %s, %s, %s, %s, %s, %s, COUNT(DISTINCT id), %s "
                "FROM audit_findings WHERE verdict = 'repeated' AND resolved_at IS NULL",
                (
                    at,
                    _time(audit.settled_ms),
                    audit.received,
                    audit.completed,
                    audit.dead,
                    audit.running,
                    audit.queued,
                    audit.lost,
                    audit.tables_agree,
                ),
            )
            c.commit()

    def counts_by_minute(self, first: int, last: int) -> dict[tuple[int, str], int]:
        with retryable(), connection(self._database) as c, c.cursor() as cursor:
            cursor.execute(
                "SELECT bucket, IF(event IN ('failed', 'cancelled'), 'dead', event) AS what, SUM(count) "
                "FROM counts_minute "
                "WHERE bucket >= %s AND bucket < %s AND event <> 'undecodable' GROUP BY bucket, what",
                (_time(first * 60_000), _time(last * 60_000)),
            )
            return {(int(b.replace(tzinfo=UTC).timestamp()) // 60, e): int(n) for b, e, n in cursor.fetchall()}


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC).replace(tzinfo=None)
