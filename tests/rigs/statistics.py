"""Fixtures for the statistics: a Spark session and a database for each run, and the role as its own process."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from pyspark.sql import SparkSession

from headrace.settings import Settings
from headrace.storage.mysql import Database
from infra.local import spark_archive
from infra.local.database import EmbeddedDatabase
from infra.local.process import free_port
from infra.local.roles import Role, analytics_role
from spark_analytics.session import start_session
from tests.parallel import SHORT_LIVED


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """Spark in this process, as the role has it, on two threads."""
    patch = pytest.MonkeyPatch()
    patch.setenv("SPARK_SUBMIT_OPTS", SHORT_LIVED)
    for name, value in spark_archive.environ().items():
        patch.setenv(name, value)
    session = start_session(
        Settings(spark_jars=spark_archive.connector(), spark_memory="512m"), tmp_path_factory.mktemp("spark")
    )
    yield session
    session.stop()
    patch.undo()


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedDatabase]:
    """A real MariaDB with the user that `up` creates for the statistics."""
    server = EmbeddedDatabase(tmp_path_factory.mktemp("mariadb"), f"127.0.0.1:{free_port()}")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def database(mariadb: EmbeddedDatabase) -> Database:
    """That database, running and without tables."""
    if not mariadb.alive:
        mariadb.start()
    found = Database.parse(mariadb.url)
    connection = found.connect()
    with connection.cursor() as cursor:
        cursor.execute("SHOW TABLES")
        for (table,) in cursor.fetchall():
            cursor.execute(f"DROP TABLE {table}")
    connection.close()
    return found


@pytest.fixture
def statistics_settings(kafka_settings: Settings, mariadb: EmbeddedDatabase, database: Database) -> Settings:
    """Settings of a role that counts this test's topics into the empty database."""
    return replace(
        kafka_settings,
        database=mariadb.url,
        analytics_http=f"127.0.0.1:{free_port()}",
        spark_jars=spark_archive.connector(),
        spark_memory="512m",
        trigger_s=0.5,
        audit_s=2.0,
    )


@pytest.fixture
def statistics(statistics_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Role]:
    """The role for this test's topics, not yet started; the test creates the topics. Its time zone is not UTC."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    monkeypatch.setenv("SPARK_SUBMIT_OPTS", SHORT_LIVED)
    role = analytics_role(statistics_settings, statistics_settings.data / "logs")
    assert role is not None
    yield role
    role.kill()
