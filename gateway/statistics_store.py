"""The statistics' tables as the routes ask for them: every query of `/stats/…`, and nothing of HTTP.

Reads what `spark_analytics` writes (its migrations say what the tables hold). Methods block, for as long as the
database's time limits let them, and are called in threads. Away when it does not answer; tables that are not made yet
are empty ones.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pymysql
from dbutils.pooled_db import PooledDB

from headrace.contract.duration_bins import quantile
from headrace.storage.mysql import Database

BUCKETS = {  # the start of a row's bucket, in SQL; `%%` because values are put in with `%`
    "minute": "bucket",
    "hour": "bucket",
    "day": "CAST(DATE(bucket) AS DATETIME)",
    "week": "CAST(DATE(bucket) - INTERVAL WEEKDAY(bucket) DAY AS DATETIME)",  # ISO: Monday
    "month": "CAST(DATE_FORMAT(bucket, '%%Y-%%m-01') AS DATETIME)",
}
DIMENSIONS = {"": "''", "name": "name", "node": "node"}
_EVENTS = ("received", "started", "completed", "failed", "cancelled", "undecodable")
_NO_TABLE = 1146
_NAMED = 100  # findings of a verdict in a summary
StatisticsRow = dict[str, Any]


class DatabaseUnavailable(Exception):
    """The database does not answer, or none is configured. The message says so in words."""


@dataclass(frozen=True, slots=True)
class Span:
    """Which rows are asked for: buckets from `since` on, before `until`; of one kind or node where given."""

    bucket: str = "hour"
    by: str = ""
    since: datetime | None = None
    until: datetime | None = None
    name: str | None = None
    node: str | None = None
    after: tuple[datetime, str] | None = None  # where the page before ended
    limit: int = 1000
    only: str = ""  # an event that a row must have at least one of


class StatisticsStore:
    """The database at `url` ("" = none)."""

    def __init__(self, url: str) -> None:
        self._database = Database.parse(url) if url.startswith("mysql:") else None
        self._pool: PooledDB | None = None

    def counts(self, span: Span) -> list[StatisticsRow]:
        """A row for each bucket (and value of `by`) in order: every event, tasks that started, bytes stored."""
        where, values = _where(span)
        sums = ", ".join(f"SUM(IF(event = '{e}', count, 0)) AS {e}" for e in _EVENTS[:-1])
        table = "counts_minute" if span.bucket == "minute" else "counts_hour"
        sql = (
            f"SELECT {BUCKETS[span.bucket]} AS b, {DIMENSIONS[span.by]} AS d, {sums}, SUM(tasks) AS tasks, "  # noqa: S608
            f"SUM(bytes) AS bytes FROM {table} WHERE event <> 'undecodable' AND {where} GROUP BY b, d "
        )
        having, more = _after(span)
        return [
            _counted(r, span.by)
            for r in self._rows(sql + having + " ORDER BY b, d LIMIT %s", [*values, *more, span.limit])
        ]

    def durations(self, span: Span) -> list[StatisticsRow]:
        """A row for each bucket of an hour or more (and kind): p50, p90 and p99 of queue wait and run time, in ms."""
        where, values = _where(span)
        sql = (
            f"SELECT {BUCKETS[span.bucket]} AS b, {DIMENSIONS[span.by]} AS d, measure, bin, SUM(count) AS n "  # noqa: S608
            f"FROM durations_hour WHERE {where} GROUP BY b, d, measure, bin ORDER BY b, d"
        )
        found: dict[tuple[datetime, str], dict[str, dict[int, int]]] = {}
        for r in self._rows(sql, values):
            bins = found.setdefault((r["b"], r["d"]), {"queued": {}, "duration": {}})
            bins[r["measure"]][r["bin"]] = int(r["n"])
        return [_timed(bucket, d, span.by, bins) for (bucket, d), bins in found.items()]

    def summary(self) -> StatisticsRow:
        """All-time totals, what is pending, and the last audit."""
        sums = "SELECT event, SUM(count) AS n, SUM(tasks) AS tasks, SUM(bytes) AS bytes FROM counts_hour GROUP BY event"
        totals = {r["event"]: r for r in self._rows(sums)}
        n = {e: int(totals[e]["n"]) if e in totals else 0 for e in _EVENTS}
        tasks = int(totals["started"]["tasks"]) if "started" in totals else 0
        batches = self._rows("SELECT MAX(written_at) AS at, SUM(late) AS late FROM batches")
        return {
            "received": n["received"],
            "started": n["started"],
            "completed": n["completed"],
            "failed": n["failed"],
            "cancelled": n["cancelled"],
            "pending": max(0, n["received"] - n["completed"] - n["failed"] - n["cancelled"]),
            "average_starts": round(n["started"] / tasks, 4) if tasks else None,
            "bytes": int(totals["completed"]["bytes"]) if "completed" in totals else 0,
            "late": int(batches[0]["late"] or 0) if batches else 0,
            "undecodable": n["undecodable"],
            "counted_at": _text(batches[0]["at"]) if batches else None,
            "audit": self._audit(),
        }

    def audits(self, limit: int) -> list[StatisticsRow]:
        """The newest audits first."""
        rows = self._rows("SELECT * FROM audits ORDER BY at DESC LIMIT %s", [limit])
        return [_audited(r) for r in rows]

    def findings(self, limit: int) -> list[StatisticsRow]:
        """What audits have named, the newest first; `resolved_at` is set once a missing event has come after all."""
        rows = self._rows("SELECT * FROM audit_findings ORDER BY found_at DESC, id LIMIT %s", [limit])
        return [r | {"found_at": _text(r["found_at"]), "resolved_at": _text(r["resolved_at"])} for r in rows]

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()

    def _audit(self) -> StatisticsRow | None:
        last = self.audits(1)
        if not last:
            return None
        found: dict[str, list[str]] = {"lost": [], "repeated": [], "unreceived": []}
        for verdict, ids in found.items():
            rows = self._rows(
                "SELECT DISTINCT id FROM audit_findings WHERE verdict = %s AND resolved_at IS NULL "
                "ORDER BY id LIMIT %s",
                [verdict, _NAMED],
            )
            ids.extend(r["id"] for r in rows)
        return last[0] | found

    def _rows(self, sql: str, values: Sequence[object] = ()) -> list[StatisticsRow]:
        try:
            with self._connection() as connection, connection.cursor(pymysql.cursors.DictCursor) as cursor:
                cursor.execute(sql, list(values))  # none given: `%%` means `%` all the same
                return list(cursor.fetchall())
        except pymysql.ProgrammingError as e:
            if e.args[0] == _NO_TABLE:
                return []
            raise
        except (pymysql.OperationalError, pymysql.InterfaceError, OSError) as e:
            raise DatabaseUnavailable(
                f"the statistics' database does not answer: {e.args[-1] if e.args else e}"
            ) from None

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        if self._database is None:
            raise DatabaseUnavailable("no database is configured: HEADRACE_DATABASE says where the statistics are")
        if self._pool is None:
            self._pool = self._database.pool(most=4, timeout_s=3)
        connection = self._pool.connection()
        try:
            yield connection
        finally:
            connection.close()


def start_of(bucket: str, at: datetime) -> datetime:
    """The start of the bucket that holds `at`, in UTC."""
    at = at.astimezone(UTC).replace(second=0, microsecond=0)
    if bucket == "minute":
        return at
    at = at.replace(minute=0)
    if bucket == "hour":
        return at
    at = at.replace(hour=0)
    if bucket == "week":
        return at - timedelta(days=at.weekday())
    return at.replace(day=1) if bucket == "month" else at


def _where(span: Span) -> tuple[str, list[object]]:
    """Conditions on whole buckets, and their values."""
    since = max(filter(None, (span.since, span.after and span.after[0])), default=None)
    parts, values = ["TRUE"], list[object]()
    if since is not None:
        parts.append("bucket >= %s")
        values.append(start_of(span.bucket, since).replace(tzinfo=None))
    if span.until is not None:
        parts.append("bucket < %s")
        values.append(span.until.astimezone(UTC).replace(tzinfo=None))
    for column, value in (("name", span.name), ("node", span.node)):
        if value is not None:
            parts.append(f"{column} = %s")
            values.append(value)
    return " AND ".join(parts), values


def _after(span: Span) -> tuple[str, list[object]]:
    parts, values = [f"{span.only} > 0"] if span.only in _EVENTS else [], list[object]()
    if span.after is not None:
        bucket, value = span.after[0].replace(tzinfo=None), span.after[1]
        parts.append("(b > %s OR (b = %s AND d > %s))")
        values = [bucket, bucket, value]
    return (f"HAVING {' AND '.join(parts)}", values) if parts else ("", [])


def _counted(r: StatisticsRow, by: str) -> StatisticsRow:
    """With what follows from the counts. Sums come as decimals."""
    n = {k: int(v) for k, v in r.items() if k not in ("b", "d")}
    ended = n["completed"] + n["failed"]
    own = {by: r["d"]} if by else {}
    return (
        {"bucket": _text(r["b"])}
        | own
        | n
        | {
            "average_starts": round(n["started"] / n["tasks"], 4) if n["tasks"] else None,
            "failure_rate": round(n["failed"] / ended, 6) if ended else None,
        }
    )


def _timed(bucket: datetime, value: str, by: str, bins: dict[str, dict[int, int]]) -> StatisticsRow:
    row: StatisticsRow = (
        {"bucket": _text(bucket)} | ({by: value} if by else {}) | {"completed": sum(bins["duration"].values())}
    )
    for measure in ("queued", "duration"):
        for percent in (50, 90, 99):
            found = quantile(bins[measure], percent / 100)
            row[f"{measure}_ms_p{percent}"] = None if found is None else round(found, 1)
    return row


def _audited(r: StatisticsRow) -> StatisticsRow:
    agree = r["tables_agree"]
    return r | {
        "at": _text(r["at"]),
        "settled": _text(r["settled"]),
        "lost_count": r["lost"],
        "tables_agree": None if agree is None else bool(agree),
        "repeated_count": r["repeated"],
    }


def _text(at: datetime | None) -> str | None:
    """RFC 3339, in UTC."""
    if at is None:
        return None
    return at.isoformat(timespec="milliseconds" if at.microsecond else "seconds") + "Z"
