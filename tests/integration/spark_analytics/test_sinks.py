"""One suite for all sinks: absolute counts, safe to write twice, and never lowered by an older write."""

import json
from collections.abc import Callable
from datetime import datetime

import pytest
from pyspark.sql import DataFrame, SparkSession

from headrace.errors import UsageError
from headrace.storage.mysql import Database
from infra.local.database import EmbeddedDatabase
from spark_analytics.counts import KEY
from spark_analytics.migrate import migrate, migrations
from spark_analytics.sinks import SINKS, sink_of
from spark_analytics.sinks.base import Sink
from spark_analytics.sinks.memory import MemorySink
from tests.rigs.lifecycle import rows

MINUTE, HOUR = datetime(2026, 11, 25, 12, 5), datetime(2026, 11, 25, 12)
SCHEMA = (
    "measure string, bucket timestamp, event string, reason string, name string, node string, bin int, "
    "count bigint, tasks bigint, bytes bigint"
)
Found = dict[tuple[object, ...], tuple[int, ...]]
NAMES = ("prime", "Prime", "prïme", "price 💶", "o'brien; DROP TABLE counts_minute; --", "")


def batch(spark: SparkSession, count: int) -> DataFrame:
    """Counts of every name's minute, each `count`, and one duration."""
    counted = [("events", MINUTE, "completed", "", n, "node", 0, count, 0, 10 * count) for n in NAMES]
    return spark.createDataFrame(
        [*counted, ("queued", HOUR, "completed", "", "prime", "", 40, count, 0, 0)], SCHEMA
    ).repartition(3)


class Reader:
    """A sink's content, KEY -> counts, for each kind of sink."""

    def __init__(self, sink: Sink, capsys: pytest.CaptureFixture[str]) -> None:
        self._sink, self._capsys, self._printed = sink, capsys, Found()

    def __call__(self) -> Found:
        if isinstance(self._sink, MemorySink):
            return dict(self._sink.rows)
        database: Database | None = getattr(self._sink, "database", None)
        if database is None:
            return self._lines()
        counts = "SELECT 'events', bucket, event, reason, name, node, 0, count, tasks, bytes FROM counts_minute"
        durations = "SELECT measure, bucket, 'completed', '', name, '', bin, count, 0, 0 FROM durations_hour"
        return {row[:7]: tuple(map(int, row[7:])) for row in rows(database, counts) + rows(database, durations)}

    def _lines(self) -> Found:
        for line in self._capsys.readouterr().out.splitlines():
            r = json.loads(line)
            key = tuple(datetime.fromisoformat(r[c]).replace(tzinfo=None) if c == "bucket" else r[c] for c in KEY)
            new = (r["count"], r["tasks"], r["bytes"])
            self._printed[key] = max(new, self._printed.get(key, (0, 0, 0)))
        return dict(self._printed)


@pytest.fixture(params=sorted(SINKS))
def sink(request: pytest.FixtureRequest, mariadb: EmbeddedDatabase, database: Database) -> Sink:
    found = sink_of(mariadb.url if request.param == "mysql" else f"{request.param}:")
    found.prepare()
    found.prepare()
    return found


@pytest.fixture
def read(sink: Sink, capsys: pytest.CaptureFixture[str]) -> Callable[[], Found]:
    return Reader(sink, capsys)


def test_a_batch_written_twice_is_there_once(sink: Sink, read: Callable[[], Found], spark: SparkSession) -> None:
    sink.write(batch(spark, 3), 0)
    once = read()
    sink.write(batch(spark, 3), 0)
    assert read() == once
    assert sorted(k[4] for k in once if k[0] == "events") == sorted(NAMES)  # type: ignore[type-var]
    assert set(once.values()) == {(3, 0, 30), (3, 0, 0)}


def test_an_older_write_that_comes_late_changes_nothing(
    sink: Sink, read: Callable[[], Found], spark: SparkSession
) -> None:
    sink.write(batch(spark, 5), 1)
    newer = read()
    sink.write(batch(spark, 2), 0)
    assert read() == newer
    assert sink.check() is None


def test_hours_follow_their_minutes(mariadb: EmbeddedDatabase, database: Database, spark: SparkSession) -> None:
    sink = sink_of(mariadb.url)
    sink.prepare()
    for minute, count in ((1, 4), (59, 5)):
        row = ("events", HOUR.replace(minute=minute), "completed", "", "prime", "n", 0, count, 0, 7)
        sink.write(spark.createDataFrame([row], SCHEMA), minute)
    assert rows(database, "SELECT bucket, name, count, bytes FROM counts_hour") == [(HOUR, "prime", 9, 14)]


def test_the_database_knows_which_checkpoint_it_was_counted_from(mariadb: EmbeddedDatabase, database: Database) -> None:
    sink = sink_of(mariadb.url)
    sink.prepare()
    assert not sink.has_checkpoint("a")
    sink.record_batch("a", 0, 0)
    sink.record_batch("a", 0, 4)
    sink.record_batch("a", 0, 0)
    assert sink.has_checkpoint("a")
    assert not sink.has_checkpoint("b")
    assert rows(database, "SELECT batch, late FROM batches") == [(0, 4)]


def test_migrations_run_once_and_refuse_tables_of_a_newer_release(database: Database) -> None:
    assert migrate(database) == [name for _, name, _ in migrations()]
    assert migrate(database) == []
    connection = database.connect()
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO schema_migrations VALUES (9999, 'later', NOW())")
    connection.commit()
    connection.close()
    with pytest.raises(UsageError, match="newer release"):
        migrate(database)


@pytest.mark.parametrize("url", ["", "postgres://a:b@c/d", "mysql://", "mysql://user@host", "mysql://u:p@h:x/n"])
def test_a_url_without_a_sink_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="HEADRACE_DATABASE"):
        sink_of(url)
