"""The statistics' process over a real Kafka and a real MariaDB: its tables say what a recount of the topics says."""

import http.client
import json
import time
from collections.abc import Callable

from headrace.database import Database
from headrace.settings import Settings
from infra.local.database import EmbeddedDatabase
from infra.local.process import free_port
from infra.local.roles import Role
from tests.lifecycle import Sends, flat, recount, rows, stories, tables, wait_until_counted


def reasons(role: Role) -> list[str]:
    host, _, port = role.listens.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    try:
        connection.request("GET", "/readyz")
        found: list[str] = json.loads(connection.getresponse().read())["reasons"]
        return found
    finally:
        connection.close()


def wait(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it has not come to pass"
        time.sleep(0.05)


def test_tables_equal_a_recount_through_repeats_an_outage_of_the_database_and_restarts(
    statistics: Role, statistics_settings: Settings, database: Database, mariadb: EmbeddedDatabase
) -> None:
    send, prefix = Sends(statistics_settings), statistics_settings.topic_prefix
    told = stories(300)
    send(flat(told[:100]))
    statistics.start(120)
    send(flat(told[50:150]))  # half of them again
    wait_until_counted(database, recount(statistics_settings.kafka, prefix))

    mariadb.stop()
    wait(lambda: any(r.startswith("database") for r in reasons(statistics)), 12)
    send(flat(told[150:250]))
    mariadb.start()
    wait_until_counted(database, recount(statistics_settings.kafka, prefix))
    wait(lambda: not reasons(statistics))

    assert statistics.stop(30), "it did not end by itself"
    assert statistics.returncode == 0
    send(flat(told[200:]))
    statistics.start(120)
    expected = recount(statistics_settings.kafka, prefix)
    wait_until_counted(database, expected)
    send.close()

    by_event: dict[str, int] = {}
    for (_, event, _, _), n in expected.items():
        by_event[event] = by_event.get(event, 0) + n
    hours = rows(database, "SELECT event, SUM(count), SUM(tasks) FROM counts_hour GROUP BY event")
    assert {event: int(n) for event, n, _ in hours} == by_event
    assert {int(tasks) for event, _, tasks in hours if event == "started"} == {300}
    assert rows(database, "SELECT measure, SUM(count) FROM durations_hour GROUP BY measure ORDER BY measure") == [
        ("duration", by_event["completed"]), ("queued", by_event["completed"])]  # fmt: skip


def test_another_database_is_counted_into_from_the_beginning(
    statistics: Role, statistics_settings: Settings, database: Database
) -> None:
    send = Sends(statistics_settings)
    send(flat(stories(20)))
    send.close()
    statistics.start(120)
    expected = recount(statistics_settings.kafka, statistics_settings.topic_prefix)
    wait_until_counted(database, expected)
    statistics.stop(30)
    connection = database.connect()
    with connection.cursor() as cursor:
        for table in ("counts_minute", "counts_hour", "durations_hour", "batches"):
            cursor.execute(f"TRUNCATE {table}")
    connection.close()
    assert not tables(database)
    statistics.start(120)
    wait_until_counted(database, expected)


def test_it_waits_for_kafka_and_topics_and_ends_when_told(statistics_settings: Settings, statistics: Role) -> None:
    port = free_port()
    statistics.settings = type(statistics_settings)(
        **{
            f: getattr(statistics_settings, f)
            for f in ("data", "database", "spark_jars", "spark_memory", "topic_prefix", "analytics_http")
        }
        | {"kafka": f"127.0.0.1:{port}"}
    )
    statistics.launch()

    def waits() -> bool:
        try:
            return any("Kafka does not answer" in r for r in reasons(statistics))
        except OSError:
            return False

    wait(waits, 90)
    assert statistics.stop(30)
    assert statistics.returncode == 0
