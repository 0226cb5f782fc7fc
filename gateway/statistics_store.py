"""The queries of `/stats/…` on the statistics database, without HTTP.

Reads the tables that `spark_analytics` writes (its migrations define them). The routes call the methods in threads,
since they block until the database answers or its time limit ends. DatabaseUnavailable when it does not answer. Tables
that do not exist yet count as empty.
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

BUCKETS = {  # the start of a row's bucket in SQL; `%%` because pymysql inserts values with `%`
    "minute": "bucket",
    "hour": "bucket",
    "day": "CAST(DATE(bucket) AS DATETIME)",
    "week": "CAST(DATE(bucket) - INTERVAL WEEKDAY(bucket) DAY AS DATETIME)",  # ISO: Monday
    "month": "CAST(DATE_FORMAT(bucket, '%%Y-%%m-01') AS DATETIME)",
}
DIMENSIONS = {"": "''", "name": "name", "node": "node"}
_EVENTS = ("received", "started", "completed", "failed", "cancelled", "undecodable")
_NO_TABLE = 1146  # ER_NO_SUCH_TABLE
_MAX_FINDINGS = 100  # of each verdict in a summary
StatisticsRow = dict[str, Any]


class DatabaseUnavailable(Exception):
    """The database does not answer, or none is configured. The message says which, and what to do."""


@dataclass(frozen=True, slots=True)
class StatisticsQuery:
    """Which rows to return: buckets from `since` (included) to `until` (excluded), of one kind or node where given."""

    bucket: str = "hour"
    by: str = ""
    since: datetime | None = None
    until: datetime | None = None
    name: str | None = None
    node: str | None = None
    after: tuple[datetime, str] | None = None  # (bucket, value of `by`) of the last row of the page before
    limit: int = 1000
    only: str = ""  # only rows that count this event at least once


class StatisticsStore:
    """The database at `url`; "" and the statistics' other sinks mean none. UsageError for another text."""

    def __init__(self, url: str) -> None:
        has_database = bool(url) and url.partition(":")[0] not in ("console", "memory")
        self._database = Database.parse(url) if has_database else None
        self._pool: PooledDB | None = None

    def counts(self, query: StatisticsQuery) -> list[StatisticsRow]:
        """A row for each bucket (and value of `by`), in order: the count of each event, tasks started, bytes stored."""
        where, values = _where(query)
        sums = ", ".join(f"SUM(IF(event = '{e}', count, 0)) AS {e}" for e in _EVENTS[:-1])
        table = "counts_minute" if query.bucket == "minute" else "counts_hour"
        sql = (
            f"SELECT {BUCKETS[query.bucket]} AS b, {DIMENSIONS[query.by]} AS d, {sums}, SUM(tasks) AS tasks, "  # noqa: S608
            f"SUM(bytes) AS bytes FROM {table} WHERE event <> 'undecodable' AND {where} GROUP BY b, d "
        )
        having, more = _having(query)
        return [
            _count_row(r, query.by)
            for r in self._select(sql + having + " ORDER BY b, d LIMIT %s", [*values, *more, query.limit])
        ]

    def durations(self, query: StatisticsQuery) -> list[StatisticsRow]:
        """A row for each bucket of an hour or more (and kind): p50, p90 and p99 of queue wait and run time, in ms."""
        (where, values), (having, more) = _where(query), _having(query)
        sql = (
            f"SELECT {BUCKETS[query.bucket]} AS b, {DIMENSIONS[query.by]} AS d, measure, bin, SUM(count) AS n "  # noqa: S608
            f"FROM durations_hour WHERE {where} GROUP BY b, d, measure, bin {having} ORDER BY b, d"
        )
        found: dict[tuple[datetime, str], dict[str, dict[int, int]]] = {}
        for r in self._select(sql, [*values, *more]):
            bins = found.setdefault((r["b"], r["d"]), {"queued": {}, "duration": {}})
            bins[r["measure"]][r["bin"]] = int(r["n"])
        return [_duration_row(bucket, d, query.by, bins) for (bucket, d), bins in found.items()]

    def summary(self) -> StatisticsRow:
        """All-time totals, the number of pending tasks, and the last audit."""
        sums = "SELECT event, SUM(count) AS n, SUM(tasks) AS tasks, SUM(bytes) AS bytes FROM counts_hour GROUP BY event"
        totals = {r["event"]: r for r in self._select(sums)}
        n = {e: int(totals[e]["n"]) if e in totals else 0 for e in _EVENTS}
        tasks = int(totals["started"]["tasks"]) if "started" in totals else 0
        batches = self._select("SELECT MAX(written_at) AS at, SUM(late) AS late FROM batches")
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
            "counted_at": _rfc3339(batches[0]["at"]) if batches else None,
            "audit": self._last_audit(),
        }

    def audits(self, limit: int, before: datetime | None = None) -> list[StatisticsRow]:
        """The newest audits first; with `before`, those that are older."""
        where, values = ("WHERE at < %s ", [before.replace(tzinfo=None)]) if before else ("", [])
        rows = self._select(f"SELECT * FROM audits {where}ORDER BY at DESC LIMIT %s", [*values, limit])  # noqa: S608
        return [_audit_row(r) for r in rows]

    def findings(self, limit: int, after: Sequence[Any] = ()) -> list[StatisticsRow]:
        """The findings of audits, newest first; `resolved_at` is set once a missing event has arrived after all.

        `after`: found_at, id, verdict and event of the last row of the page before.
        """
        where, values = "", list[object]()
        if after:
            at = after[0].replace(tzinfo=None)
            where = "WHERE found_at < %s OR (found_at = %s AND (id, verdict, event) > (%s, %s, %s)) "
            values = [at, at, *after[1:]]
        rows = self._select(
            f"SELECT * FROM audit_findings {where}ORDER BY found_at DESC, id, verdict, event LIMIT %s",  # noqa: S608
            [*values, limit],
        )
        return [r | {"found_at": _rfc3339(r["found_at"]), "resolved_at": _rfc3339(r["resolved_at"])} for r in rows]

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()

    def _last_audit(self) -> StatisticsRow | None:
        """The newest audit with the open findings: by verdict the first ids, and the count of all."""
        last = self.audits(1)
        if not last:
            return None
        found: StatisticsRow = {}
        for verdict in ("lost", "repeated", "unreceived", "resubmitted"):
            rows = self._select(
                "SELECT id, COUNT(*) OVER () AS n FROM (SELECT DISTINCT id FROM audit_findings "
                "WHERE verdict = %s AND resolved_at IS NULL) AS open ORDER BY id LIMIT %s",
                [verdict, _MAX_FINDINGS],
            )
            found[verdict] = [r["id"] for r in rows]
            found[f"{verdict}_count"] = int(rows[0]["n"]) if rows else 0
        found["lost_count"] = max(found["lost_count"], last[0]["lost_count"])  # not all of them are findings
        return last[0] | found

    def _select(self, sql: str, values: Sequence[object] = ()) -> list[StatisticsRow]:
        try:
            with self._connection() as connection, connection.cursor(pymysql.cursors.DictCursor) as cursor:
                cursor.execute(sql, list(values))  # always a list: with None, `%%` would stay as it is
                return list(cursor.fetchall())
        except pymysql.ProgrammingError as e:
            if e.args[0] == _NO_TABLE:
                return []
            raise
        except (pymysql.OperationalError, pymysql.InterfaceError, OSError) as e:
            raise DatabaseUnavailable(
                f"the statistics database does not answer: {e.args[-1] if e.args else e}"
            ) from None

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        if self._database is None:
            raise DatabaseUnavailable("no statistics database is configured: set HEADRACE_DATABASE to its URL")
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


def _where(query: StatisticsQuery) -> tuple[str, list[object]]:
    """SQL conditions on whole buckets, and their values."""
    since = max(filter(None, (query.since, query.after and query.after[0])), default=None)
    parts, values = ["TRUE"], list[object]()
    if since is not None:
        parts.append("bucket >= %s")
        values.append(start_of(query.bucket, since).replace(tzinfo=None))
    if query.until is not None:
        parts.append("bucket < %s")
        values.append(query.until.astimezone(UTC).replace(tzinfo=None))
    for column, value in (("name", query.name), ("node", query.node)):
        if value is not None:
            parts.append(f"{column} = %s")
            values.append(value)
    return " AND ".join(parts), values


def _having(query: StatisticsQuery) -> tuple[str, list[object]]:
    parts, values = [f"{query.only} > 0"] if query.only in _EVENTS else [], list[object]()
    if query.after is not None:
        bucket, value = query.after[0].replace(tzinfo=None), query.after[1]
        parts.append("(b > %s OR (b = %s AND d > %s))")
        values = [bucket, bucket, value]
    return (f"HAVING {' AND '.join(parts)}", values) if parts else ("", [])


def _count_row(r: StatisticsRow, by: str) -> StatisticsRow:
    """A row of counts with the rates that follow from them. The database returns sums as decimals."""
    n = {k: int(v) for k, v in r.items() if k not in ("b", "d")}
    ended = n["completed"] + n["failed"]
    own = {by: r["d"]} if by else {}
    return (
        {"bucket": _rfc3339(r["b"])}
        | own
        | n
        | {
            "average_starts": round(n["started"] / n["tasks"], 4) if n["tasks"] else None,
            "failure_rate": round(n["failed"] / ended, 6) if ended else None,
        }
    )


def _duration_row(bucket: datetime, value: str, by: str, bins: dict[str, dict[int, int]]) -> StatisticsRow:
    row: StatisticsRow = (
        {"bucket": _rfc3339(bucket)} | ({by: value} if by else {}) | {"completed": sum(bins["duration"].values())}
    )
    for measure in ("queued", "duration"):
        for percent in (50, 90, 99):
            found = quantile(bins[measure], percent / 100)
            row[f"{measure}_ms_p{percent}"] = None if found is None else round(found, 1)
    return row


def _audit_row(r: StatisticsRow) -> StatisticsRow:
    agree = r["tables_agree"]
    return r | {
        "at": _rfc3339(r["at"]),
        "settled": _rfc3339(r["settled"]),
        "lost_count": r["lost"],
        "tables_agree": None if agree is None else bool(agree),
        "repeated_count": r["repeated"],
    }


def _rfc3339(at: datetime | None) -> str | None:
    """RFC 3339 in UTC; the database stores UTC without an offset."""
    if at is None:
        return None
    return at.isoformat(timespec="milliseconds" if at.microsecond else "seconds") + "Z"
