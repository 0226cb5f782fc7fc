"""GET /stats/… over a real database: buckets, splits, pages, CSV, percentiles, the audit, and a missing database."""

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from headrace.contract.duration_bins import bin_of
from headrace.settings import Settings
from headrace.storage.mysql import Database
from infra.local.database import EmbeddedDatabase
from spark_analytics.migrate import migrate
from tests.rigs.gateway import Gateway


@pytest.fixture
def gateway(kafka_settings: Settings, topics: str, mariadb: EmbeddedDatabase, database: Database) -> Iterator[Gateway]:
    found = Gateway(replace(kafka_settings, database=mariadb.url)).start(until_ready=False)
    yield found
    found.stop()


def fill(database: Database) -> None:
    """Completions around the end of a month in the middle of a week, failures, starts and durations."""
    counts = [
        # Saturday, Sunday (still the same ISO week), Monday
        (datetime(2026, 10, 31, 23, 59), "completed", "", "prime", "a", 1, 0, 100),
        (datetime(2026, 11, 1, 0, 0), "completed", "", "prime", "b", 2, 0, 200),
        (datetime(2026, 11, 2, 0, 1), "completed", "", "zip", "a", 4, 0, 400),
        (datetime(2026, 11, 2, 0, 1), "failed", "timeout", "zip", "a", 1, 0, 0),
        (datetime(2026, 11, 2, 0, 1), "cancelled", "cancelled", "zip", "", 1, 0, 0),
        (datetime(2026, 11, 2, 0, 2), "received", "", "zip", "", 10, 0, 0),
        (datetime(2026, 11, 2, 0, 2), "started", "", "zip", "a", 9, 8, 0),
    ]
    migrate(database)
    connection = database.connect()
    with connection.cursor() as cursor:
        for table in ("counts_minute", "counts_hour"):
            at = "%s" if table == "counts_minute" else "DATE_FORMAT(%s, '%%Y-%%m-%%d %%H:00')"
            cursor.executemany(f"INSERT INTO {table} VALUES ({at}, %s, %s, %s, %s, %s, %s, %s)", counts)
        bins = [
            (datetime(2026, 11, 2), m, "zip", bin_of(ms), n)
            for m, ms, n in (("queued", 10, 90), ("queued", 1000, 10), ("duration", 50, 100))
        ]
        cursor.executemany("INSERT INTO durations_hour VALUES (%s, %s, %s, %s, %s)", bins)
        cursor.execute("INSERT INTO audits VALUES ('2026-11-02 00:05', '2026-11-02 00:04', 10, 7, 2, 0, 0, 1, 0, 1)")
        cursor.execute(
            "INSERT INTO audit_findings VALUES (%s, 'lost', 'completed', '2026-11-02 00:05', NULL, 'gone')",
            ("0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a11",),
        )
    connection.commit()
    connection.close()


PARTS = (("lost", "completed"), ("repeated", "started"))  # verdict and event


def items(gateway: Gateway, path: str) -> list[Any]:
    answer = gateway.http.get(path)
    assert answer.status_code == 200, answer.text
    found: list[Any] = answer.json()["items"]
    return found


def completed(gateway: Gateway, bucket: str, more: str = "") -> list[tuple[Any, ...]]:
    return [tuple(i.values()) for i in items(gateway, f"/stats/completed?bucket={bucket}{more}")]


def test_completions_by_every_bucket_and_split(gateway: Gateway, database: Database) -> None:
    fill(database)
    assert completed(gateway, "minute") == [
        ("2026-10-31T23:59:00Z", 1),
        ("2026-11-01T00:00:00Z", 2),
        ("2026-11-02T00:01:00Z", 4),
    ]
    assert completed(gateway, "hour")[0] == ("2026-10-31T23:00:00Z", 1)
    assert completed(gateway, "day") == [
        ("2026-10-31T00:00:00Z", 1),
        ("2026-11-01T00:00:00Z", 2),
        ("2026-11-02T00:00:00Z", 4),
    ]
    assert completed(gateway, "week") == [("2026-10-26T00:00:00Z", 3), ("2026-11-02T00:00:00Z", 4)]
    assert completed(gateway, "month") == [("2026-10-01T00:00:00Z", 1), ("2026-11-01T00:00:00Z", 6)]
    assert completed(gateway, "month", "&by=node") == [
        ("2026-10-01T00:00:00Z", "a", 1),
        ("2026-11-01T00:00:00Z", "a", 4),
        ("2026-11-01T00:00:00Z", "b", 2),
    ]
    assert completed(gateway, "month", "&by=name&node=a&since=2026-11-15T00:00:00Z") == [
        ("2026-11-01T00:00:00Z", "zip", 4)
    ]
    assert completed(gateway, "day", "&until=2026-11-01T00:00:00%2B00:00&name=prime") == [("2026-10-31T00:00:00Z", 1)]


def test_pages_follow_one_another_without_a_gap(gateway: Gateway, database: Database) -> None:
    fill(database)
    found, cursor = [], ""
    while cursor is not None:
        page = gateway.http.get(f"/stats/completed?bucket=month&by=node&limit=1&cursor={cursor}").json()
        found += page["items"]
        cursor = page["next"]
    assert found == items(gateway, "/stats/completed?bucket=month&by=node")
    assert len(found) == 3


@pytest.mark.parametrize("split", ["", "&by=name"])
def test_pages_of_durations_follow_one_another_without_a_gap(gateway: Gateway, database: Database, split: str) -> None:
    fill(database)
    connection = database.connect()
    with connection.cursor() as rows:
        rows.executemany(
            "INSERT INTO durations_hour VALUES (%s, 'duration', %s, %s, 1)",
            [(datetime(2026, 11, 2, hour), name, bin_of(50)) for hour in (0, 1, 3) for name in ("prime", "other")],
        )
    connection.commit()
    connection.close()
    found, cursor = [], ""
    while cursor is not None:
        page = gateway.http.get(f"/stats/durations?bucket=hour&limit=1&cursor={cursor}{split}").json()
        found += page["items"]
        cursor = page["next"]
    assert found == items(gateway, f"/stats/durations?bucket=hour{split}")
    assert len(found) == (7 if split else 3)


@pytest.mark.parametrize("path", ["findings", "audits"])
def test_pages_of_what_audits_found_follow_one_another_without_a_gap(
    gateway: Gateway, database: Database, path: str
) -> None:
    fill(database)
    connection = database.connect()
    with connection.cursor() as rows:
        rows.executemany(
            "INSERT INTO audit_findings VALUES (%s, %s, %s, '2026-11-02 00:05', NULL, 'gone')",
            [(f"{n:08x}-0000-4000-8000-000000000000", v, e) for n in (1, 2) for v, e in PARTS],
        )
        rows.executemany(
            "INSERT INTO audits VALUES (%s, '2026-11-02 00:04', 10, 7, 2, 0, 0, 1, 0, 1)",
            [(datetime(2026, 11, 2, 0, minute),) for minute in (6, 7, 8)],
        )
    connection.commit()
    connection.close()
    found, cursor = [], ""
    while cursor is not None:
        page = gateway.http.get(f"/stats/{path}?limit=1&cursor={cursor}").json()
        found += page["items"]
        cursor = page["next"]
    assert found == items(gateway, f"/stats/{path}")
    assert len(found) == (5 if path == "findings" else 4)
    assert gateway.http.get(f"/stats/{path}?cursor=nonsense").json()["type"] == "/problems/bad-request"


def test_counts_rates_and_percentiles(gateway: Gateway, database: Database) -> None:
    fill(database)
    [_, _, monday] = items(gateway, "/stats/counts?bucket=day")
    assert monday["received"] == 10
    assert (monday["failed"], monday["cancelled"], monday["failure_rate"]) == (1, 1, 0.2)
    assert monday["average_starts"] == 1.125
    [timed] = items(gateway, "/stats/durations?bucket=week&by=name")
    assert timed["name"] == "zip"
    assert timed["queued_ms_p50"] == pytest.approx(10, rel=0.02)
    assert timed["queued_ms_p99"] == pytest.approx(1000, rel=0.02)
    assert timed["duration_ms_p90"] == pytest.approx(50, rel=0.02)
    assert [r["bucket"] for r in items(gateway, "/stats/durations?bucket=month")] == ["2026-11-01T00:00:00Z"]


def test_the_summary_has_the_findings_of_the_audit(gateway: Gateway, database: Database) -> None:
    fill(database)
    found = gateway.http.get("/stats/summary").json()
    assert (found["received"], found["completed"], found["failed"], found["cancelled"]) == (10, 7, 1, 1)
    assert (found["pending"], found["average_starts"], found["bytes"]) == (1, 1.125, 700)
    assert found["audit"]["lost"] == ["0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a11"]
    assert found["audit"]["repeated"] == []
    assert found["audit"]["at"] == "2026-11-02T00:05:00Z"
    [finding] = items(gateway, "/stats/findings")
    assert (finding["verdict"], finding["detail"]) == ("lost", "gone")


def test_the_counts_of_findings_are_those_of_their_lists(gateway: Gateway, database: Database) -> None:
    fill(database)
    ids = [f"{n:08x}-0000-4000-8000-000000000000" for n in range(130)]  # more than a list has
    connection = database.connect()
    with connection.cursor() as cursor:
        found = [(i, "repeated", event) for i in ids[:3] for event in ("received", "completed")]
        found += [(ids[3], "unreceived", "received")] + [(i, "resubmitted", "received") for i in ids]
        cursor.executemany(
            "INSERT INTO audit_findings VALUES (%s, %s, %s, '2026-11-01 00:00:00', NULL, 'seen earlier')", found
        )
    connection.commit()
    connection.close()
    audit = gateway.http.get("/stats/summary").json()["audit"]
    assert (audit["lost_count"], len(audit["lost"])) == (1, 1)
    assert (audit["repeated_count"], audit["repeated"]) == (3, ids[:3])
    assert (audit["unreceived_count"], audit["unreceived"]) == (1, [ids[3]])
    assert (audit["resubmitted_count"], audit["resubmitted"]) == (130, ids[:100])


def test_csv_has_the_same_rows_and_no_formulas_for_spreadsheets(gateway: Gateway, database: Database) -> None:
    fill(database)
    connection = database.connect()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE counts_hour SET name = '=cmd()' WHERE name = 'zip'")
    connection.commit()
    connection.close()
    answer = gateway.http.get("/stats/completed?bucket=month&by=name&format=csv")
    assert answer.headers["content-type"].startswith("text/csv")
    assert "completed.csv" in answer.headers["content-disposition"]
    found = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(r["bucket"], r["name"], r["completed"]) for r in found][1:] == [
        ("2026-11-01T00:00:00Z", "'=cmd()", "4"),
        ("2026-11-01T00:00:00Z", "prime", "2"),
    ]


def test_an_empty_database_is_no_error_and_a_missing_one_is_a_503_problem(
    gateway: Gateway, mariadb: EmbeddedDatabase
) -> None:
    found = gateway.http.get("/stats/summary").json()
    assert (found["received"], found["pending"], found["average_starts"], found["audit"]) == (0, 0, None, None)
    assert items(gateway, "/stats/completed") == []
    mariadb.stop()
    answer = gateway.http.get("/stats/summary")
    assert answer.status_code == 503
    assert answer.json()["type"] == "/problems/statistics-unavailable"
    assert "Retry-After" in answer.headers
    mariadb.start()
    assert gateway.http.get("/stats/summary").status_code == 200


@pytest.mark.parametrize(
    "query", ["bucket=year", "by=reason", "since=yesterday", "limit=0", "cursor=%21", "until=2026-11-02"]
)
def test_an_invalid_parameter_is_named(gateway: Gateway, query: str) -> None:
    answer = gateway.http.get(f"/stats/completed?{query}")
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["pointer"] == f"?{query.partition('=')[0]}"
